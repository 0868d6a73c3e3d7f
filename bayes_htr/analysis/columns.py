"""The columns of a report: what each of them means, and how it is computed.

Columns that WeightWatcher (0.7.7) has as well have its names and definitions. `COLUMNS` contains
the meanings in the order of the table. Each function below computes the columns of one topic from
the spectrum of one matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from bayes_htr.analysis.bulk import MarchenkoPasturFit, fit_marchenko_pastur
from bayes_htr.analysis.esd import ESD, Array, pooled
from bayes_htr.analysis.resampled import jensen_shannon
from bayes_htr.analysis.verdict import LIGHT, VERY_HEAVY
from bayes_htr.analysis.weights import Conv, Weight
from bayes_htr.errors import SpectrumError
from bayes_htr.spectra import hill
from bayes_htr.tails import Comparison, PowerlawFit, SpectrumTail
from bayes_htr.tails.alternatives import PARAMETERS

Row = dict[str, Any]

_WEAK = 1e-6

COLUMNS = {
    "layer_id": "number of the matrix in the network, from 0",
    "name": "the parameter",
    "layer_type": "type of its layer; from its dimensions alone where there is no module",
    "N": "longer side of the matrix, or of each slice",
    "M": "shorter side",
    "Q": "aspect ratio, `N / M`",
    "rf": "matrices that the eigenvalues are of: 1, or the positions of the kernel for slices",
    "num_params": "entries",
    "num_evals": "eigenvalues; of an adapter's product those that can differ from zero",
    "alpha": "exponent of the power law in the tail whose start, `xmin`, was searched",
    "interval_low": "lower end of the credible interval of alpha, with xmin taken as known",
    "interval_high": "its upper end",
    "searched_low": "lower end of the interval that takes the choice of xmin into account",
    "searched_high": "its upper end",
    "p_value": "bootstrap probability of so large a D if the tail is a power law",
    "verdict": "what follows, in words",
    "xmin": "where the tail begins",
    "xmax": "where it ends: the largest eigenvalue",
    "D": "Kolmogorov-Smirnov distance of the tail to its power law (lower step)",
    "sigma": "standard error of alpha, `(alpha - 1) / sqrt(num_pl_spikes)`",
    "num_pl_spikes": "eigenvalues in the tail",
    "hill": "another estimate: Hill's exponent of the larger half, without a search",
    "alpha_weighted": "`alpha log10(lambda_max)`",
    "log_alpha_norm": "`log10 sum_i lambda_i^alpha`",
    "norm": "squared Frobenius norm, `sum_i lambda_i`",
    "log_norm": "`log10` of it",
    "spectral_norm": "largest eigenvalue, the squared spectral norm",
    "log_spectral_norm": "`log10` of it",
    "lambda_max": "largest eigenvalue",
    "sv_max": "largest singular value",
    "sv_min": "smallest singular value",
    "stable_rank": "`norm / spectral_norm`",
    "entropy": "entropy of `lambda / norm` over the logarithm of the rank: 1 for equal eigenvalues",
    "matrix_rank": "singular values above `N eps sv_max`, in float64",
    "rank_loss": "those that are not",
    "weak_rank_loss": "eigenvalues below 1e-6",
    "lognormal_R": "log likelihood ratio of the power law to a lognormal; negative: against it",
    "lognormal_p": "probability of so small a ratio if the power law holds",
    "lognormal_mu": "its location: the mean of the logarithm, but for the cut at xmin",
    "lognormal_sigma": "its scale: the standard deviation of the logarithm",
    "exponential_R": "the same to an exponential",
    "exponential_p": "probability of so large a ratio, of either sign, if both fit alike",
    "exponential_Lambda": "its rate",
    "truncated_power_law_R": "the same to a power law with an exponential cut-off",
    "truncated_power_law_p": "probability of so small a ratio if the power law holds",
    "truncated_power_law_alpha": "its exponent; at most 1, it is no power law but for its cut-off",
    "truncated_power_law_Lambda": "its cut-off: it falls exponentially from `1 / Lambda` on",
    "stretched_exponential_R": "the same to a stretched exponential",
    "stretched_exponential_p": "probability of so small a ratio if the power law holds",
    "stretched_exponential_beta": "its exponent: `P(X >= x)` falls as `exp(-(Lambda x)^beta)`",
    "stretched_exponential_Lambda": "its rate",
    "sigma_mp": "standard deviation of the random bulk, 1 where all is bulk; none if none fits",
    "bulk_min": "lower edge of the Marchenko-Pastur bulk; none if none fits",
    "bulk_max": "upper edge",
    "num_spikes": "eigenvalues above it, with a margin that random matrices pass in 1 % of cases",
    "mp_softrank": "`bulk_max / lambda_max`",
    "mp_D": "Kolmogorov-Smirnov distance of the bulk to its law; a large one: there is no bulk",
    "W_scale": "`sqrt(num_evals / norm)`",
    "detX_num": "eigenvalues in the tail of the trace-log (ERG) condition",
    "num_ERG_spikes": "the same",
    "ERG_gap": "`detX_num - num_pl_spikes`",
    "detX_val": "where that tail begins",
    "detX_val_unrescaled": "the same in a spectrum of mean 1 (WeightWatcher's names are these)",
    "max_rand_eval": "largest eigenvalue with the entries in random order",
    "rand_distance": "Jensen-Shannon distance of the spectrum to the randomised one",
    "ww_softrank": "`max_rand_eval / lambda_max`",
    "ww_maxdist": "`lambda_max - max_rand_eval`",
    "num_above_rand": "eigenvalues above `max_rand_eval`",
    "rand_num_spikes": "as `num_spikes`, of the randomised matrix: single large entries make them",
    "num_traps": "the same",
    "rand_sigma_mp": "as `sigma_mp`, of the randomised matrix",
    "rand_mp_softrank": "as `mp_softrank`, of it",
    "rand_bulk_min": "as `bulk_min`, of it",
    "rand_bulk_max": "as `bulk_max`, of it",
    "rand_W_scale": "as `W_scale`, of it",
    "farms_alpha": "alpha of the average spectrum of windows of one aspect ratio",
    "farms_hill": "Hill's exponent of the larger half of it",
    "farms_xmin": "where its tail begins",
    "farms_D": "distance of its tail to the power law",
    "farms_num_pl_spikes": "eigenvalues in its tail, of overlapping windows",
    "farms_N": "longer side of a window",
    "farms_M": "shorter side",
    "farms_windows": "how many there are",
    "status": "`success`, or `failed` where there is no tail to fit, or no spectrum",
    "warning": "`over-trained` for alpha below 2, `under-trained` above 6, else empty",
}


def in_order(row: Row) -> Row:
    """Return the row with its columns in the order of `COLUMNS`."""
    return {name: row[name] for name in COLUMNS if name in row}


_UNDEFINED_NUMBERS = (
    *("alpha", "interval_low", "interval_high", "xmin", "xmax", "D", "sigma", "hill"),
    *("alpha_weighted", "log_alpha_norm", "norm", "log_norm", "spectral_norm"),
    *("log_spectral_norm", "lambda_max", "sv_max", "sv_min", "stable_rank", "entropy", "W_scale"),
)
_UNDEFINED_COUNTS = (
    *("num_pl_spikes", "matrix_rank", "rank_loss", "weak_rank_loss"),
    *("detX_num", "num_ERG_spikes", "ERG_gap"),
)


def undefined_columns() -> Row:
    """Return the columns of every report, with the values for a matrix without a spectrum."""
    numbers: Row = dict.fromkeys(_UNDEFINED_NUMBERS, math.nan)
    return numbers | dict.fromkeys(_UNDEFINED_COUNTS) | {"status": "failed", "warning": ""}


# Shape and norms


def shape_columns(weight: Weight, esd: ESD, number: int, conv: Conv) -> Row:
    """Return the name, type and size of a weight, and its number in the network."""
    return {
        "layer_id": number,
        "name": weight.name,
        "layer_type": weight.kind,
        "N": esd.N,
        "M": esd.M,
        "Q": esd.Q,
        "rf": weight.positions if conv == "slices" else 1,
        "num_params": math.prod(weight.shape),
        "num_evals": len(esd.values),
    }


def norm_columns(esd: ESD, alpha: float) -> Row:
    """Return norms, ranks and the entropy.

    Logarithms of a zero matrix are minus infinity.
    """
    values = esd.values
    norm, largest = float(values.sum()), float(values[-1])
    rank = matrix_rank(esd)
    log_largest = _log10(largest)
    return {
        "alpha_weighted": alpha * log_largest,
        "log_alpha_norm": log_alpha_norm(values, alpha),
        "norm": norm,
        "log_norm": _log10(norm),
        "spectral_norm": largest,
        "log_spectral_norm": log_largest,
        "lambda_max": largest,
        "sv_max": math.sqrt(largest),
        "sv_min": math.sqrt(float(values[0])),
        "stable_rank": norm / largest if largest > 0 else math.nan,
        "entropy": entropy(values, rank),
        "matrix_rank": rank,
        "rank_loss": len(values) - rank,
        "weak_rank_loss": int((values < _WEAK).sum()),
        "W_scale": _scale(values),
    }


def matrix_rank(esd: ESD) -> int:
    """Return the number of singular values above `N eps sigma_1` in float64, as in NumPy."""
    sigma = np.sqrt(esd.values)
    return int((sigma > sigma[-1] * esd.N * np.finfo(np.float64).eps).sum())


def entropy(values: Array, rank: int) -> float:
    """Return `-sum p ln p / ln(rank)` with `p = lambda / sum lambda`.

    The value is 0 at rank 1 and NaN at rank 0.
    """
    if rank < 2:
        return 0.0 if rank else math.nan
    p = values / values.sum()
    p = p[p > 0]
    return float(-(p * np.log(p)).sum() / math.log(rank))


def log_alpha_norm(values: Array, alpha: float) -> float:
    """Return `log10 sum lambda^alpha`.

    It is computed from logarithms, because large powers would overflow.
    """
    positive = values[values > 0]
    if math.isnan(alpha) or not len(positive):
        return math.nan
    powers = alpha * np.log(positive)
    return float((powers.max() + np.log(np.exp(powers - powers.max()).sum())) / math.log(10))


def _scale(values: Array) -> float:
    """Return the factor that scales the matrix to eigenvalues of mean 1."""
    mean = float(values.mean())
    return 1 / math.sqrt(mean) if mean > 0 else math.nan


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 else -math.inf


# The tail


def tail_columns(esd: ESD, fit: PowerlawFit | None) -> Row:
    """Return the power law in the tail, and Hill's estimate."""
    names = ("alpha", "xmin", "D", "sigma")
    row: Row = {name: math.nan if fit is None else getattr(fit, name) for name in names}
    row["xmax"] = float(esd.values[-1])
    row["num_pl_spikes"] = None if fit is None else fit.n_tail
    row["interval_low"], row["interval_high"] = (None, None) if fit is None else fit.interval
    try:
        row["hill"] = float(hill(torch.from_numpy(esd.values[esd.values > esd.floor])))
    except SpectrumError:
        row["hill"] = math.nan
    if fit is not None and fit.p_value is not None:
        row["p_value"] = fit.p_value
        row["searched_low"], row["searched_high"] = fit.searched_interval or (None, None)
    return row


def status_columns(tail: SpectrumTail) -> Row:
    """Return whether there is a tail to fit, and WeightWatcher's word for its exponent."""
    fit = tail.fit
    warning = ""
    if fit is not None and not tail.problem and not VERY_HEAVY <= fit.alpha <= LIGHT:
        warning = "over-trained" if fit.alpha < VERY_HEAVY else "under-trained"
    return {"status": "failed" if fit is None else "success", "warning": warning}


def comparison_columns(comparisons: Sequence[Comparison]) -> Row:
    """Return likelihood ratios to other laws, with the parameters of these laws.

    All are NaN without a tail to compare. The parameters are also NaN if the best fit of the other
    law is the power law itself.
    """
    row: Row = {}
    for name, parameters in PARAMETERS.items():
        row |= {f"{name}_{column}": math.nan for column in ("R", "p", *parameters)}
    for comparison in comparisons:
        name = comparison.name
        row |= {f"{name}_R": comparison.ratio, f"{name}_p": comparison.p_value}
        row |= {f"{name}_{key}": value for key, value in comparison.parameters.items()}
    return row


def erg_columns(esd: ESD, fit: PowerlawFit | None) -> Row:
    """Return the trace-log condition (ERG), WeightWatcher's `detX`."""
    count = trace_log_count(esd.values)
    if count is None:
        return {"detX_num": None, "num_ERG_spikes": None, "ERG_gap": None}
    value = esd.values[-count]
    return {
        "detX_num": count,
        "num_ERG_spikes": count,
        "ERG_gap": None if fit is None else count - fit.n_tail,
        "detX_val": float(value),
        "detX_val_unrescaled": float(value / esd.values.mean()),
    }


def trace_log_count(values: Array) -> int | None:
    """Return the number of eigenvalues in the tail of the trace-log condition.

    The spectrum is scaled to mean 1. From the largest eigenvalue down, the product of eigenvalues
    first grows and then falls. The tail ends with the eigenvalue at which the product falls below
    1. Logarithms are summed here, since the product itself leaves the floating-point range from
    about a thousand eigenvalues on (WeightWatcher then counts nearly all of them).

    Args:
        values: `(K,)` eigenvalues, ascending.

    Returns:
        The number, or `None` for a spectrum of equal values, which has no such tail.

    References:
        Martin & Hinrichs (2025), "SETOL: a semi-empirical theory of (deep) learning",
        arXiv:2507.17912.
    """
    if not values[0] < values[-1]:
        return None
    with np.errstate(divide="ignore"):
        below = np.log((values / values.mean())[::-1]).cumsum() < 0
    if not below.any():  # equal but for rounding
        return None
    return int(below.argmax()) + 1


# The random bulk, and other matrices made from the weight


def bulk_columns(bulk: MarchenkoPasturFit | None, prefix: str = "") -> Row:
    """Return the Marchenko-Pastur bulk; NaN and `None` where there is none, or it does not fit."""
    fits = bulk is not None and bulk.fits
    row: Row = {
        f"{prefix}sigma_mp": bulk.sigma if bulk and fits else math.nan,
        f"{prefix}bulk_min": bulk.bulk_min if bulk and fits else math.nan,
        f"{prefix}bulk_max": bulk.bulk_max if bulk and fits else math.nan,
        f"{prefix}num_spikes": bulk.num_spikes if bulk and fits else None,
        f"{prefix}mp_softrank": bulk.soft_rank if bulk and fits else math.nan,
    }
    return row if prefix else row | {"mp_D": math.nan if bulk is None else bulk.D}


def random_columns(replicas: Sequence[ESD], esd: ESD) -> Row:
    """Return the spectrum compared with those of the matrix with its entries in random order."""
    pool = pooled(replicas)
    largest, own = float(pool.values[-1]), float(esd.values[-1])
    values = np.pad(esd.values, (len(replicas[0].values) - len(esd.values), 0))  # of low rank
    bulk = fit_marchenko_pastur(pool)
    if bulk is not None:
        bulk = replace(bulk, num_spikes=round(bulk.num_spikes / len(replicas)))
    return {
        "max_rand_eval": largest,
        "rand_distance": jensen_shannon(values, replicas[0].values),
        "ww_softrank": largest / own,
        "ww_maxdist": own - largest,
        "rand_W_scale": _scale(pool.values),
        "num_above_rand": int((esd.values > largest).sum()),
        "num_traps": None if bulk is None or not bulk.fits else bulk.num_spikes,
        **bulk_columns(bulk, "rand_"),
    }


def farms_columns(windows: ESD, fit: PowerlawFit | None) -> Row:
    """Return the tail of the average spectrum of windows."""
    tail = tail_columns(windows, fit)
    names = ("alpha", "hill", "xmin", "D", "num_pl_spikes")
    return {f"farms_{name}": tail[name] for name in names} | {
        "farms_N": windows.N,
        "farms_M": windows.M,
        "farms_windows": windows.matrices,
    }

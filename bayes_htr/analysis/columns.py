"""The columns of a report: what each is, and the ones that follow from the eigenvalues alone.

Names and definitions are WeightWatcher's (0.7.7) where it has them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from bayes_htr.analysis.esd import ESD
from bayes_htr.analysis.weights import Conv, Weight

Row = dict[str, str | int | float | None]

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
    "num_evals": "eigenvalues",
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
    "exponential_R": "the same to an exponential",
    "exponential_p": "probability of so large a ratio, of either sign, if both fit alike",
    "truncated_power_law_R": "the same to a power law with an exponential cut-off",
    "truncated_power_law_p": "probability of so small a ratio if the power law holds",
    "sigma_mp": "standard deviation of the random bulk, 1 where all is bulk",
    "bulk_min": "lower edge of the Marchenko-Pastur bulk",
    "bulk_max": "upper edge",
    "num_spikes": "eigenvalues above it, with a margin that random matrices pass in 1 % of cases",
    "mp_softrank": "`bulk_max / lambda_max`",
    "mp_D": "Kolmogorov-Smirnov distance of the bulk to its law",
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
    "status": "`success`, or `failed` where there is no tail to fit",
    "warning": "`over-trained` for alpha below 2, `under-trained` above 6, else empty",
}


def shape_columns(weight: Weight, esd: ESD, number: int, conv: Conv) -> Row:
    """What the matrix is."""
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
    """Norms, ranks and entropy. Logarithms of a zero matrix are minus infinity."""
    values = esd.values
    norm, largest = float(values.sum()), float(values[-1])
    rank = matrix_rank(esd)
    log_largest = _log10(largest)
    return {
        "alpha_weighted": alpha * log_largest,
        "log_alpha_norm": log_alpha_norm(esd, alpha),
        "norm": norm,
        "log_norm": _log10(norm),
        "spectral_norm": largest,
        "log_spectral_norm": log_largest,
        "lambda_max": largest,
        "sv_max": math.sqrt(largest),
        "sv_min": math.sqrt(float(values[0])),
        "stable_rank": norm / largest if largest > 0 else math.nan,
        "entropy": entropy(esd, rank),
        "matrix_rank": rank,
        "rank_loss": len(values) - rank,
        "weak_rank_loss": int((values < _WEAK).sum()),
        "W_scale": w_scale(esd),
    }


def interval_ends(row: Mapping[str, Any]) -> tuple[float, float]:
    """The interval of alpha that counts: over xmin where there is one; NaN without a tail."""
    ends = (row.get("searched_low"), row.get("searched_high"))
    if None in ends:
        ends = (row["interval_low"], row["interval_high"])
    low, high = (math.nan if end is None else float(end) for end in ends)
    return low, high


def w_scale(esd: ESD) -> float:
    """What scales the matrix to eigenvalues of mean 1."""
    mean = float(esd.values.mean())
    return 1 / math.sqrt(mean) if mean > 0 else math.nan


def matrix_rank(esd: ESD) -> int:
    """Singular values above `N eps sigma_1` in float64, NumPy's convention."""
    sigma = np.sqrt(esd.values)
    return int((sigma > sigma[-1] * esd.N * np.finfo(np.float64).eps).sum())


def entropy(esd: ESD, rank: int) -> float:
    """`-sum p ln p / ln(rank)`, `p = lambda / sum lambda`; 0 for rank 1, no number for rank 0."""
    if rank < 2:
        return 0.0 if rank else math.nan
    p = esd.values / esd.values.sum()
    p = p[p > 0]
    return float(-(p * np.log(p)).sum() / math.log(rank))


def log_alpha_norm(esd: ESD, alpha: float) -> float:
    """`log10 sum lambda^alpha`, by logarithms: large powers leave the floating-point numbers."""
    positive = esd.values[esd.values > 0]
    if math.isnan(alpha) or not len(positive):
        return math.nan
    powers = alpha * np.log(positive)
    return float((powers.max() + np.log(np.exp(powers - powers.max()).sum())) / math.log(10))


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 else -math.inf

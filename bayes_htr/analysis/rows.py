"""From the matrices of a weight to its row of the report."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from bayes_htr.analysis.columns import COLUMNS, Row, norm_columns, shape_columns, w_scale
from bayes_htr.analysis.erg import trace_log
from bayes_htr.analysis.esd import ESD, Array, esd_of
from bayes_htr.analysis.farms import Farms, farms_esd
from bayes_htr.analysis.marchenko_pastur import MarchenkoPasturFit, fit_marchenko_pastur
from bayes_htr.analysis.randomised import Randomised, randomise
from bayes_htr.analysis.verdict import LIGHT, VERY_HEAVY, verdict
from bayes_htr.analysis.weights import Conv, Weight
from bayes_htr.errors import SpectrumError
from bayes_htr.spectra import hill
from bayes_htr.tails import ALTERNATIVES, Comparison, PowerlawFit, SpectrumTail, fit_tail


@dataclass(frozen=True)
class Options:
    """What is computed of each matrix; see `analyze`.

    Raises:
        ValueError: One outside its range.
    """

    conv: Conv
    level: float
    bootstrap: int
    compare: bool
    mp_fit: bool
    randomize: bool
    farms: Farms | None
    seed: int

    def __post_init__(self) -> None:
        if self.conv not in ("flatten", "slices"):
            raise ValueError(f"conv={self.conv!r} must be 'flatten' or 'slices'")
        if not 0 < self.level < 1:
            raise ValueError(f"level={self.level} must lie between 0 and 1")
        if self.bootstrap < 0:
            raise ValueError(
                f"bootstrap={self.bootstrap} must be 0, for none, or a number of replicates"
            )


@dataclass(frozen=True)
class Analysed:
    """A weight's row, its eigenvalues (ascending), its tail fit and its bulk."""

    row: Row
    eigenvalues: Array
    fit: PowerlawFit | None
    bulk: MarchenkoPasturFit | None


def analyse(weight: Weight, number: int, options: Options) -> Analysed:
    """Read a weight and compute its row.

    Raises:
        SpectrumError: Entries that are not finite.
    """
    with torch.no_grad():
        matrices = weight.matrices(options.conv)
        factor = weight.factor(options.conv)
        esd = esd_of(matrices, weight.name, factor)
        row = shape_columns(weight, esd, number, options.conv)
        tail = tail_of(esd, options)
        fit = tail.fit
        bulk = fit_marchenko_pastur(esd) if options.mp_fit or options.randomize else None
        comparisons = _comparisons(fit) if options.compare and fit else []
        row |= _tail_columns(esd, fit)
        row |= norm_columns(esd, math.nan if fit is None else fit.alpha)
        row |= _comparison_columns(comparisons) if options.compare else {}
        row |= _bulk_columns(bulk, "") if options.mp_fit else {}
        row |= _erg_columns(esd, fit)
        if options.randomize and esd.values[-1] > 0:  # a zero matrix has no order
            random = randomise(matrices, esd, weight.name, options.seed, factor)
            row |= _random_columns(random, esd)
        if options.farms is not None:
            windows = farms_esd(matrices, options.farms, weight.name, factor)
            row |= _farms_columns(windows, options)
    row["verdict"] = verdict(tail, bulk, comparisons)
    row["status"] = "failed" if fit is None else "success"
    row["warning"] = _warning(tail)
    known = {name: i for i, name in enumerate(COLUMNS)}
    return Analysed(dict(sorted(row.items(), key=lambda c: known[c[0]])), esd.values, fit, bulk)


def tail_of(esd: ESD, options: Options, *, bootstrap: bool = True) -> SpectrumTail:
    """The tail of an ESD; eigenvalues that the stored weights' rounding made are left out."""
    return fit_tail(
        esd.values,
        floor=esd.floor,
        error=esd.error,
        level=options.level,
        bootstrap=options.bootstrap if bootstrap else 0,
        seed=options.seed,
    )


def _tail_columns(esd: ESD, fit: PowerlawFit | None) -> Row:
    names = ("alpha", "xmin", "D", "sigma")
    row: Row = {name: math.nan if fit is None else getattr(fit, name) for name in names}
    row["xmax"] = float(esd.values[-1])
    row["num_pl_spikes"] = None if fit is None else fit.n_tail
    row["interval_low"], row["interval_high"] = (None, None) if fit is None else fit.interval
    row["hill"] = _hill(esd)
    if fit is not None and fit.p_value is not None:
        row["p_value"] = fit.p_value
        row["searched_low"], row["searched_high"] = fit.searched_interval or (None, None)
    return row


def _hill(esd: ESD) -> float:
    try:
        return float(hill(torch.from_numpy(esd.values[esd.values > esd.floor])))
    except SpectrumError:
        return math.nan


def _warning(tail: SpectrumTail) -> str:
    """WeightWatcher's word for the exponent, where it may be read."""
    fit = tail.fit
    if fit is None or tail.problem or VERY_HEAVY <= fit.alpha <= LIGHT:
        return ""
    return "over-trained" if fit.alpha < VERY_HEAVY else "under-trained"


def _comparisons(fit: PowerlawFit) -> list[Comparison]:
    return [fit.compare(name) for name in ALTERNATIVES]


def _comparison_columns(comparisons: list[Comparison]) -> Row:
    row: Row = {}
    for name in ALTERNATIVES:
        row[f"{name}_R"] = row[f"{name}_p"] = math.nan
    for c in comparisons:
        row[f"{c.name}_R"] = c.ratio
        row[f"{c.name}_p"] = c.vuong_p if c.nested_p is None else c.nested_p
    return row


def _bulk_columns(bulk: MarchenkoPasturFit | None, prefix: str) -> Row:
    if bulk is None:
        names = ("sigma_mp", "bulk_min", "bulk_max", "mp_softrank")
        return {f"{prefix}{name}": math.nan for name in names} | {f"{prefix}num_spikes": None}
    row: Row = {
        "sigma_mp": bulk.sigma,
        "bulk_min": bulk.bulk_min,
        "bulk_max": bulk.bulk_max,
        "num_spikes": bulk.num_spikes,
        "mp_softrank": bulk.soft_rank,
    }
    return {f"{prefix}{name}": value for name, value in row.items()} | (
        {} if prefix else {"mp_D": bulk.D}
    )


def _erg_columns(esd: ESD, fit: PowerlawFit | None) -> Row:
    found = trace_log(esd)
    if found is None:
        return {"detX_num": None, "num_ERG_spikes": None, "ERG_gap": None}
    return {
        "detX_num": found.count,
        "num_ERG_spikes": found.count,
        "ERG_gap": None if fit is None else found.count - fit.n_tail,
        "detX_val": found.value,
        "detX_val_unrescaled": found.scaled,
    }


def _random_columns(random: Randomised, esd: ESD) -> Row:
    largest, own = float(random.esd.values[-1]), float(esd.values[-1])
    bulk = fit_marchenko_pastur(random.esd)
    if bulk is not None:  # of one replica: the mean over all
        replicas = random.esd.matrices / esd.matrices
        bulk = replace(bulk, num_spikes=round(bulk.num_spikes / replicas))
    return {
        "max_rand_eval": largest,
        "rand_distance": random.distance,
        "ww_softrank": largest / own,
        "ww_maxdist": own - largest,
        "rand_W_scale": w_scale(random.esd),
        "num_above_rand": random.above,
        "num_traps": None if bulk is None else bulk.num_spikes,
        **_bulk_columns(bulk, "rand_"),
    }


def _farms_columns(esd: ESD, options: Options) -> Row:
    fit = tail_of(esd, options, bootstrap=False).fit
    return {
        "farms_alpha": math.nan if fit is None else fit.alpha,
        "farms_hill": _hill(esd),
        "farms_xmin": math.nan if fit is None else fit.xmin,
        "farms_D": math.nan if fit is None else fit.D,
        "farms_num_pl_spikes": None if fit is None else fit.n_tail,
        "farms_N": esd.N,
        "farms_M": esd.M,
        "farms_windows": esd.matrices,
    }

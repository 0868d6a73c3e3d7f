"""The analysis of one matrix, from its weight to the record for tables, pictures and pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bayes_htr._checks import whole_number
from bayes_htr.analysis import columns
from bayes_htr.analysis.bulk import MarchenkoPasturFit, fit_marchenko_pastur
from bayes_htr.analysis.columns import Row
from bayes_htr.analysis.esd import ESD, Array, esd_of
from bayes_htr.analysis.resampled import Farms, farms_esd, randomised
from bayes_htr.analysis.verdict import REJECTED, UNTOLD, Kind, Verdict, verdict
from bayes_htr.analysis.weights import Conv, Weight
from bayes_htr.errors import SpectrumError
from bayes_htr.tails import ALTERNATIVES, PowerlawFit, SpectrumTail, fit_tail
from bayes_htr.tails.intervals import check_level

_NO_DECOMPOSITION = (np.linalg.LinAlgError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]

_REPLICATES = (100, 400, 1600)
"""Replicates in each round of `bootstrap="auto"`, which goes on while the p-value is undecided."""

_SMALLEST, _LARGEST = 1e-150, 1e150
"""If the largest entry is not between these, eigenvalues may leave float64."""


@dataclass(frozen=True)
class Options:
    """The settings of the analysis of one matrix; `analyze` describes them.

    Raises:
        ValueError: An option is outside its range.
    """

    conv: Conv
    level: float
    bootstrap: int | Literal["auto"]
    compare: bool
    mp_fit: bool
    randomize: bool
    farms: Farms | None
    seed: int

    def __post_init__(self) -> None:
        if self.conv not in ("flatten", "slices"):
            raise ValueError(f"conv={self.conv!r} must be 'flatten' or 'slices'")
        check_level(self.level)
        if self.bootstrap != "auto":
            whole_number(self.bootstrap, "bootstrap")
        whole_number(self.seed, "seed")


@dataclass(frozen=True)
class MatrixSpectrum:
    """The analysed spectrum of one matrix.

    Attributes:
        row: The row of the matrix in the report.
        eigenvalues: `(K,)` all eigenvalues, ascending; NaN where the matrix is not finite.
        fit: The power law in the tail, or `None` where there is no tail.
        bulk: The Marchenko-Pastur bulk, or `None` where it was not fitted or does not fit.
    """

    row: Row
    eigenvalues: Array
    fit: PowerlawFit | None
    bulk: MarchenkoPasturFit | None

    @property
    def name(self) -> str:
        """The name of the parameter."""
        return str(self.row["name"])

    @property
    def count(self) -> int:
        """The number of all eigenvalues, K."""
        return len(self.eigenvalues)

    @property
    def alpha(self) -> float:
        """The exponent of the tail; NaN without a tail."""
        return math.nan if self.fit is None else self.fit.alpha

    @property
    def interval(self) -> tuple[float, float]:
        """The interval of alpha that is shown; NaN without a tail."""
        return (math.nan, math.nan) if self.fit is None else self.fit.shown_interval

    @property
    def kind(self) -> Kind:
        """The kind of the verdict."""
        kind: Kind = self.row["verdict"].kind
        return kind

    @property
    def values(self) -> Array:
        """`(n,)` the eigenvalues that differ from zero by more than rounding, ascending."""
        if self.fit is not None:
            return self.fit.values
        esd = ESD(self.eigenvalues, self.row["N"], self.row["M"], self.row["rf"])
        return self.eigenvalues[self.eigenvalues > esd.floor]


def analyse(weight: Weight, number: int, options: Options) -> MatrixSpectrum:
    """Read a weight and analyse its spectrum.

    A weight without a spectrum, because it is not finite, has a row whose verdict says so.

    Args:
        weight: The weight.
        number: The number of the weight in the network, from 0.
        options: The options of the analysis.
    """
    with torch.no_grad():
        matrices = weight.matrices(options.conv)
        factor, size = weight.factor(options.conv), weight.size(options.conv)
        try:
            esd = esd_of(matrices, weight.name, factor, weight.rank)
        except (SpectrumError, *_NO_DECOMPOSITION):
            return _without_spectrum(weight, matrices, number, options)
        bulk = None
        if (options.mp_fit or options.randomize) and weight.count(options.conv) == size:
            bulk = fit_marchenko_pastur(esd)  # a product of low rank has none
        tail = _tested_tail(esd, options, random_like=bulk is not None and bulk.random_like)
        fit = tail.fit
        comparisons = []
        if options.compare and fit is not None:
            comparisons = [fit.compare(name) for name in ALTERNATIVES]
        row = columns.shape_columns(weight, esd, number, options.conv)
        row |= (
            columns.tail_columns(esd, fit)
            | columns.status_columns(tail)
            | columns.erg_columns(esd, fit)
        )
        row |= columns.norm_columns(esd, math.nan if fit is None else fit.alpha)
        if options.compare:
            row |= columns.comparison_columns(comparisons)
        if options.mp_fit:
            row |= columns.bulk_columns(bulk)
        if options.randomize and esd.values[-1] > 0:  # a zero matrix has no order
            replicas = randomised(matrices, esd, weight.name, options.seed, factor)
            row |= columns.random_columns(replicas, esd)
        if options.farms is not None:
            windows = farms_esd(matrices, options.farms, weight.name, factor)
            row |= columns.farms_columns(windows, _tail(windows, options, 0).fit)
    row["verdict"] = verdict(tail, bulk, comparisons)
    there_is_one = bulk is not None and bulk.fits
    return MatrixSpectrum(columns.in_order(row), esd.values, fit, bulk if there_is_one else None)


def _without_spectrum(
    weight: Weight, matrices: Sequence[Tensor], number: int, options: Options
) -> MatrixSpectrum:
    """Return the record of a weight that has no spectrum, with the reason as its verdict."""
    M, N = sorted(weight.sides(options.conv))
    missing = ESD(np.full(weight.count(options.conv), np.nan), N, M, len(matrices))
    entries = sum(W.numel() for W in matrices)
    lost = sum(int((~torch.isfinite(W.double())).sum()) for W in matrices)
    largest = max(float(W.double().abs().max()) for W in matrices)
    problem = "no spectrum: its decomposition fails"
    if lost:
        problem = f"not finite: {lost} of {entries} entries are NaN or infinite"
    elif not _SMALLEST < largest < _LARGEST:
        size = "large" if largest > 1 else "small"
        problem = f"no spectrum: its entries are so {size} that eigenvalues leave float64"
    row = columns.shape_columns(weight, missing, number, options.conv) | columns.undefined_columns()
    row["verdict"] = Verdict(problem, UNTOLD)
    return MatrixSpectrum(columns.in_order(row), missing.values, None, None)


def _tested_tail(esd: ESD, options: Options, random_like: bool) -> SpectrumTail:
    """Return the tail of an ESD.

    If the option `bootstrap` is "auto", the tail has as many replicates as its verdict needs.
    """
    if options.bootstrap != "auto":
        return _tail(esd, options, options.bootstrap)
    tail = SpectrumTail(None)
    for replicates in _REPLICATES:
        tail = _tail(esd, options, replicates)
        untold = tail.fit is None or tail.problem or random_like
        if untold or (tail.fit is not None and tail.fit.rejected(REJECTED) is not None):
            break
    return tail


def _tail(esd: ESD, options: Options, bootstrap: int) -> SpectrumTail:
    """Return the tail of an ESD without the eigenvalues due to rounding of the stored weights."""
    return fit_tail(
        esd.values,
        floor=esd.floor,
        error=esd.error,
        level=options.level,
        bootstrap=bootstrap,
        seed=options.seed,
    )

"""One matrix: from its weight to the record that tables, pictures and pages take."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from bayes_htr.analysis import columns
from bayes_htr.analysis.bulk import MarchenkoPasturFit, fit_marchenko_pastur
from bayes_htr.analysis.columns import Row
from bayes_htr.analysis.esd import ESD, Array, esd_of
from bayes_htr.analysis.resampled import Farms, farms_esd, randomised
from bayes_htr.analysis.verdict import Kind, verdict
from bayes_htr.analysis.weights import Conv, Weight
from bayes_htr.tails import ALTERNATIVES, PowerlawFit, SpectrumTail, fit_tail
from bayes_htr.tails.intervals import check_level


@dataclass(frozen=True)
class Options:
    """What is computed of each matrix; `analyze` describes the options.

    Raises:
        ValueError: An option outside its range.
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
        check_level(self.level)
        if self.bootstrap < 0:
            raise ValueError(
                f"bootstrap={self.bootstrap} must be 0, for none, or a number of replicates"
            )


@dataclass(frozen=True)
class MatrixSpectrum:
    """The analysed spectrum of one matrix.

    Attributes:
        row: Its row of the report.
        eigenvalues: `(K,)` all eigenvalues, ascending.
        fit: The power law in the tail, or `None` where there is no tail.
        bulk: The Marchenko-Pastur bulk, or `None` where it was not fitted or there is none.
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
        """The kind of its verdict."""
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

    Args:
        weight: The weight.
        number: Its number in the network, from 0.
        options: What is computed.

    Raises:
        SpectrumError: Some entries are not finite.
    """
    with torch.no_grad():
        matrices = weight.matrices(options.conv)
        factor = weight.factor(options.conv)
        esd = esd_of(matrices, weight.name, factor)
        tail = _tail(esd, options, options.bootstrap)
        fit = tail.fit
        bulk = fit_marchenko_pastur(esd) if options.mp_fit or options.randomize else None
        comparisons = []
        if options.compare and fit is not None:
            comparisons = [fit.compare(name) for name in ALTERNATIVES]
        row = columns.shape_columns(weight, esd, number, options.conv)
        row |= (
            columns.tail_columns(esd, fit)
            | columns.status_columns(tail)
            | columns.erg_columns(esd, fit)
        )
        row |= columns.erg_columns(esd, fit)
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
    return MatrixSpectrum(columns.in_order(row), esd.values, fit, bulk)


def _tail(esd: ESD, options: Options, bootstrap: int) -> SpectrumTail:
    """The tail of an ESD without the eigenvalues that come from rounding of the stored weights."""
    return fit_tail(
        esd.values,
        floor=esd.floor,
        error=esd.error,
        level=options.level,
        bootstrap=bootstrap,
        seed=options.seed,
    )

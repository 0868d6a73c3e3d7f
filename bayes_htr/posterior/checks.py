"""Predictive checks: does the spectrum of a matrix look like a draw from a law?

Take the law of a prior with the hyperparameters of a posterior draw, and let `F` be its
distribution function. Under the law the transforms `u_i = F(lambda_i)` of the spectrum of the same
draw are independent and uniform on (0, 1), whatever the law is: they are a pivotal quantity. If the
model is right, this holds for each posterior draw, averaged over data sets (Johnson 2007, Bayesian
Analysis 2(4); Yuan & Johnson 2012, Biometrics 68). For a point mass the check asks whether the
trained spectrum itself could be a sample from the law.

The band is simultaneous: with probability `level`, all order statistics of a uniform sample lie
within it. Each of its limits is a quantile of the Beta distribution of an order statistic. The
probability of these quantiles is the same for all order statistics and is found by simulation
(Aldor-Noiman et al. 2013, The American Statistician 67; Säilynoja et al. 2022, Statistics and
Computing 32).
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
import scipy
import torch
from rich.table import Table
from torch import Tensor

from bayes_htr._plotting import (
    BLUE,
    GREY,
    INK,
    WIDEST,
    legend,
    literal,
    new_panels,
    save,
    styled,
    tick,
)
from bayes_htr._printing import Printable, add_row, compact_table
from bayes_htr.posterior.laws import StatisticDistribution, quantiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIMULATIONS = 4000
_SIGNIFICANCE = 0.05
_MOST_CURVES = 50
_TABLE_QUANTILES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0)


@dataclass(frozen=True, eq=False)
class SpectrumCheck(Printable):
    """The comparison of `S` draws of a spectrum with a law.

    The law has `k` values, which are all eigenvalues, or the largest alone under `MaxEigenvalue`.

    Attributes:
        matrix: The name of the matrix.
        law: The law as it was stated.
        level: The probability of the band.
        eigenvalues: The eigenvalues of each draw, ascending: `(S, k)`.
        pit: The probability integral transforms `F(lambda)`: `(S, k)`.
        expected: The quantiles of the law at `i / (k + 1)` as eigenvalues: `(k,)`. If the law has
            hyperparameters, these are medians over their draws.
        band: The simultaneous band of `pit` under the law: `(k, 2)`.
        eigenvalue_band: The same band as eigenvalues: `(k, 2)`.
        distances: The Kolmogorov-Smirnov distance of each draw from the law: `(S,)`.
        p_values: For each draw, the probability that a replicate of the spectrum has a larger
            distance: `(S,)`.
    """

    matrix: str
    law: str
    level: float
    eigenvalues: np.ndarray
    pit: np.ndarray
    expected: np.ndarray
    band: np.ndarray
    eigenvalue_band: np.ndarray
    distances: np.ndarray
    p_values: np.ndarray

    @property
    def distance(self) -> float:
        """The mean Kolmogorov-Smirnov distance of the draws."""
        return float(self.distances.mean())

    @property
    def p_value(self) -> float:
        """The posterior predictive p-value: how often a replicate is further from the law.

        Under the law the p-value of a single draw is uniform on (0, 1). This mean over draws, which
        resemble each other, lies closer to 1/2.
        """
        return float(self.p_values.mean())

    @property
    def inside(self) -> float:
        """The share of draws whose transforms all lie within the band."""
        within = (self.pit >= self.band[:, 0]) & (self.pit <= self.band[:, 1])
        return float(within.all(1).mean())

    @property
    def conclusion(self) -> str:
        """Say in words what the p-value means.

        The law is rejected below 0.05; the words then say in which direction the spectrum differs.
        """
        if self.p_value >= _SIGNIFICANCE:
            return "The spectrum passes for a draw from this law."
        middle = np.median(self.pit, axis=0)
        low = int((middle < self.band[:, 0]).sum())
        high = int((middle > self.band[:, 1]).sum())
        k = self.pit.shape[1]
        return (
            f"The spectrum is not a typical draw from this law: of {k} values {low} are smaller "
            f"and {high} larger than such draws have. The data have moved it away from what the "
            "law expects. That says nothing against the predictions; to describe the spectrum, "
            "name another law, or give this one's arguments hyperpriors that can follow the data."
        )

    def parts(self, width: int) -> Sequence[Table | str]:
        """Return rows for some eigenvalues with their bands, then the test and its conclusion."""
        percent = f"{100 * self.level:g} %"
        table = compact_table("value", "eigenvalue", f"law [{percent}]", "F", f"F [{percent}]", "")
        k = self.pit.shape[1]
        for i in sorted({round(f * (k - 1)) for f in _TABLE_QUANTILES}):
            low, high = self.band[i]
            u = float(np.median(self.pit[:, i]))
            where = "low" if u < low else "high" if u > high else ""
            ends = ", ".join(f"{x:.3g}" for x in self.eigenvalue_band[i])
            cells = (
                f"{i + 1} of {k}",
                f"{np.median(self.eigenvalues[:, i]):.4g}",
                f"{self.expected[i]:.3g} [{ends}]",
                f"{u:.3f}",
                f"[{low:.3f}, {high:.3f}]",
                where,
            )
            add_row(table, cells)
        S = len(self.pit)
        draws = "the spectrum lies" if S == 1 else f"{100 * self.inside:.0f} % of {S} draws lie"
        within = " not" if S == 1 and not self.inside else ""
        return [
            f"{self.matrix} against {self.law}; F is the law's distribution function",
            table,
            f"Kolmogorov-Smirnov distance {self.distance:.4g}, posterior predictive p-value "
            f"{self.p_value:.3g}; {draws}{within} wholly within the band",
            self.conclusion,
        ]

    @styled
    def plot(self, *, path: str | PathLike[str] | None = None) -> Figure:
        """Plot the quantiles and the transforms of the spectrum, both with the band.

        On the left are the eigenvalues against the quantiles of the law, on log-log axes. On the
        right is the difference between the transforms and their expectations,
        `F(lambda_(i)) - i / (k + 1)`. If there are several draws, the left shows their median with
        95 % intervals, and the right shows up to 50 of them.

        Args:
            path: The file that the figure is saved in, if given.

        Raises:
            ImportError: matplotlib is not installed.
        """
        figure, (left, right) = new_panels(1, 2, WIDEST, 3.9)
        _draw_quantiles(left, self)
        _draw_transforms(right, self)
        title = literal(f"{self.matrix} against {self.law}: p = {self.p_value:.2g}")
        figure.suptitle(textwrap.fill(title, 90))
        save(figure, path)
        return figure


def check_spectrum(
    law: StatisticDistribution,
    eigenvalues: Tensor,
    hyperparameters: Mapping[str, Tensor],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> SpectrumCheck:
    """Compare draws of a spectrum with a law.

    Args:
        law: The law.
        eigenvalues: The eigenvalues of each draw: `(S, K)`.
        hyperparameters: Draws of the hyperparameters of the law by name: `(S,)` each.
        level: The probability of the band.
        seed: The seed for a tail index that was integrated out.

    Raises:
        PriorError: A hyperparameter of the law has no value.
        ValueError: `level` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1")
    eigenvalues = eigenvalues.double()
    x = law.scored(eigenvalues)
    k = x.shape[1]
    distribution = law.distribution(law.hyperparameters(eigenvalues, hyperparameters, seed))
    # A law on the positive numbers does not accept an exact 0.
    pit = distribution.cdf(x.clamp_min(torch.finfo(x.dtype).tiny)).clamp(0, 1).numpy()
    steps = np.arange(1, k + 1)
    distances = np.maximum(steps / k - pit, pit - (steps - 1) / k).max(1)
    band = uniform_band(k, level)

    def eigenvalue_at(p: np.ndarray) -> np.ndarray:
        lam = law.eigenvalues(quantiles(distribution, torch.tensor(p)))
        return (lam.median(0).values if lam.ndim > 1 else lam).numpy()

    return SpectrumCheck(
        matrix=law.name,
        law=law.label,
        level=level,
        eigenvalues=law.eigenvalues(x).numpy(),
        pit=pit,
        expected=eigenvalue_at(steps / (k + 1)),
        band=band,
        eigenvalue_band=np.stack([eigenvalue_at(band[:, 0]), eigenvalue_at(band[:, 1])], 1),
        distances=distances,
        p_values=scipy.stats.kstwo.sf(distances, k),
    )


@lru_cache(maxsize=64)
def uniform_band(n: int, level: float) -> np.ndarray:
    """Return limits for the order statistics of a uniform sample.

    All of these lie within their limits with the probability `level`.

    The `i`-th order statistic of `n` values is `Beta(i, n + 1 - i)`, and its limits are the
    quantiles at `g / 2` and `1 - g / 2`. Each of 4000 simulated samples has a smallest two-sided
    tail probability, and `g` is the `1 - level` quantile of these. The coverage differs from
    `level` by about 0.005.

    Args:
        n: The size of the sample.
        level: The probability.

    Returns:
        The lower and upper limits: `(n, 2)`.
    """
    generator = np.random.default_rng(0)
    i = np.arange(1, n + 1)
    least = np.empty(_SIMULATIONS)
    for s in range(_SIMULATIONS):
        u = np.sort(generator.random(n))
        below = scipy.special.betainc(i, n + 1 - i, u)
        least[s] = 2 * np.minimum(below, 1 - below).min()
    g = np.quantile(least, 1 - level)
    limits = [scipy.special.betaincinv(i, n + 1 - i, q) for q in (g / 2, 1 - g / 2)]
    band = np.stack(limits, axis=1)
    band.flags.writeable = False
    return band


def _draw_quantiles(ax: Axes, check: SpectrumCheck) -> None:
    x, band = check.expected, check.eigenvalue_band
    _draw_band(ax, x, band[:, 0], band[:, 1], check.level)
    ax.plot(x, x, color=INK, lw=0.8, ls="--", marker="_" if len(x) == 1 else "")
    low, middle, high = np.quantile(check.eigenvalues, [0.025, 0.5, 0.975], axis=0)
    size = 5 if len(x) < 60 else 2.5
    ax.plot(x, middle, "o", color=BLUE, ms=size, label="spectrum")
    if len(check.eigenvalues) > 1:
        ax.vlines(x, low, high, color=BLUE, lw=1)
    ax.set_xscale("log")
    ax.set_yscale("log")
    if len(x) == 1:
        ax.set_xlim(x[0] / 5, x[0] * 5)
    for axis in (ax.xaxis, ax.yaxis):
        tick(axis)
    ax.set(xlabel="quantile of the law", ylabel=r"eigenvalue $\lambda$")
    legend(ax, columns=2)


def _draw_transforms(ax: Axes, check: SpectrumCheck) -> None:
    k = check.pit.shape[1]
    perfect = np.arange(1, k + 1) / (k + 1)
    low, high = (check.band - perfect[:, None]).T
    _draw_band(ax, perfect, low, high, check.level)
    ax.axhline(0, color=INK, lw=0.8, ls="--")
    curves = check.pit[:: -(-len(check.pit) // _MOST_CURVES)] - perfect
    opacity = 1.0 if len(curves) == 1 else 0.3
    marker = "." if k < 60 else ""
    ax.plot(perfect, curves.T, color=BLUE, lw=1, alpha=opacity, marker=marker)
    ax.set_xlim(0, 1)
    ax.set(xlabel=r"$i / (k + 1)$", ylabel=r"$F(\lambda_{(i)}) - i / (k + 1)$")


def _draw_band(ax: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, level: float) -> None:
    label = f"{100 * level:g} % band of the law"
    if len(x) == 1:
        ax.vlines(x, low, high, color=GREY, lw=6, alpha=0.5, label=label)
    else:
        ax.fill_between(x, low, high, color=GREY, alpha=0.4, lw=0, label=label)

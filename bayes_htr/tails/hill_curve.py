"""Hill's estimate of alpha as a function of the number of values from which it is computed.

A power-law tail shows as a level stretch of the curve; a curve that rises or falls throughout has
none. Neighbouring estimates share almost all of their values, and so they wander together.

References:
    Hill (1975), Annals of Statistics 3(5). Drees, de Haan & Resnick (2000), Annals of Statistics
    28(1), on how to read the curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes_htr._plotting import save
from bayes_htr.tails.fit import read_values
from bayes_htr.tails.intervals import GammaPosterior, check_level, intervals_of_each
from bayes_htr.tails.plots import plot_hill
from bayes_htr.tails.search import Array, Index

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class HillCurve:
    """Estimates of alpha by the number of largest values.

    Attributes:
        k: `(P,)` numbers of values above the threshold.
        threshold: `(P,)` the thresholds, `lambda_{k+1}`.
        alpha: `(P,)` `1 + k / sum_{i<=k} log(lambda_i / lambda_{k+1})`.
        low: `(P,)` lower ends of the credible intervals of alpha.
        high: `(P,)` upper ends of the credible intervals of alpha.
        level: Probability of the intervals.
    """

    k: Index
    threshold: Array
    alpha: Array
    low: Array
    high: Array
    level: float

    def plot(self, ax: Axes | None = None, *, path: str | PathLike[str] | None = None) -> Axes:
        """Draw the curve with its band.

        Args:
            ax: The axes to draw on; those of a new figure by default.
            path: If given, the file in which the figure is saved.

        Raises:
            ImportError: matplotlib is not installed.
        """
        ax = plot_hill(self.k, self.alpha, (self.low, self.high), self.level, ax)
        save(ax, path)
        return ax


def hill_curve(lam: Any, *, level: float = 0.95) -> HillCurve:
    """Compute Hill's estimate for every number of largest values.

    The intervals are those of the posterior of `alpha - 1` under Jeffreys' prior, with the
    threshold taken as known. Thresholds that all k largest values equal are left out.

    Args:
        lam: `(K,)` values in any order. Zeros are left out.
        level: Probability of the intervals.

    Raises:
        SpectrumError: The same errors as in `fit_powerlaw`.
        ValueError: `level` does not lie between 0 and 1.
    """
    check_level(level)
    logs = np.log(read_values(lam)[0])[::-1]
    k = np.arange(1, len(logs))
    excess = np.cumsum(logs)[:-1] - k * logs[1:]
    above = logs[0] > logs[1:]
    k, excess, threshold = k[above], excess[above], np.exp(logs[1:][above])
    low, high = intervals_of_each(GammaPosterior.of(excess, k), level)
    return HillCurve(k, threshold, 1 + k / excess, low, high, level)

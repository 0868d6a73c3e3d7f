"""Hill's estimate of alpha against the number of values that it is taken from.

A power-law tail shows as a level stretch of the curve; a curve that rises or falls throughout has
none. Neighbouring estimates share almost all of their values: they wander together.

References:
    Hill (1975), Annals of Statistics 3(5). Drees, de Haan & Resnick (2000), Annals of Statistics
    28(1), on how to read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy

from bayes_htr.tails.rules import Array
from bayes_htr.tails.search import Index
from bayes_htr.tails.values import read_values

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
        high: `(P,)` upper ends.
        level: Their probability.
    """

    k: Index
    threshold: Array
    alpha: Array
    low: Array
    high: Array
    level: float

    def plot(self, ax: Axes | None = None, *, path: str | PathLike[str] | None = None) -> Axes:
        """The curve with its band: `plots.plot_hill`.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from bayes_htr.tails.plots import plot_hill

        band = (self.low, self.high)
        return plot_hill(self.k, self.alpha, band, self.level, ax, path=path)


def hill_curve(lam: Any, *, level: float = 0.95) -> HillCurve:
    """Hill's estimate for every number of largest values.

    The interval is that of the posterior `Gamma(k, S)` of `alpha - 1`, with Jeffreys' prior and the
    threshold taken as known. Thresholds that the k largest values all equal are left out.

    Args:
        lam: `(K,)` values in any order. Zeros are left out.
        level: Probability of the intervals.

    Raises:
        SpectrumError: As `fit_powerlaw`.
        ValueError: `level` outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1")
    logs = np.log(read_values(lam).used)[::-1]
    k = np.arange(1, len(logs))
    S = np.cumsum(logs)[:-1] - k * logs[1:]
    kept = logs[0] > logs[1:]
    k, S, threshold = k[kept], S[kept], np.exp(logs[1:][kept])
    low, high = (scipy.stats.gamma.ppf(q, k) / S for q in ((1 - level) / 2, (1 + level) / 2))
    return HillCurve(k, threshold, 1 + k / S, 1 + low, 1 + high, level)

"""Pictures of fitted tails, from arrays.

They need matplotlib (`pip install "bayes-htr[plot]"`), and raise an `ImportError` without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayes_htr._plotting import BLUE, GREY, RED, legend, new_axes, styled, tick
from bayes_htr.tails.discrete import survival as whole_survival
from bayes_htr.tails.search import Array, Index, law_cdf

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@styled
def plot_fit(
    values: Array,
    n_tail: int,
    alpha: float,
    interval: tuple[float, float],
    xmin: float,
    xmax: float | None,
    ax: Axes | None = None,
    *,
    discrete: bool = False,
) -> Axes:
    """Draw the share of values at least as large on log-log axes, with the law and its interval.

    Args:
        values: `(n,)` all values, ascending.
        n_tail: The number of them that are in the tail.
        alpha: Exponent of the law.
        interval: Interval of alpha.
        xmin: The lower end of the tail.
        xmax: The law's upper end, or `None`.
        ax: The axes to draw on; those of a new figure by default.
        discrete: Whether the law is that of whole numbers.
    """
    ax = ax or new_axes(5.2, 4.2)
    n = len(values)
    share = np.arange(n, 0, -1) / n
    ax.plot(values, share, ".", ms=4, color=BLUE, label=f"{n} values")
    x = np.geomspace(xmin, values[-1], 200)[: None if xmax is None else -1]
    span = None if xmax is None else np.log(xmax / xmin)

    if discrete:
        x = np.unique(np.floor(x))

    def survival(exponent: float) -> Array:
        if discrete:
            return n_tail / n * whole_survival(np.asarray(exponent), x, np.asarray(xmin))
        return n_tail / n * (1 - law_cdf(exponent - 1, np.log(x / xmin), span))

    low, high = interval
    label = rf"$\alpha$ = {alpha:.2f} [{low:.2f}, {high:.2f}]"
    ax.plot(x, survival(alpha), color=RED, lw=1.6, label=label)
    ax.fill_between(x, survival(high), survival(low), color=RED, alpha=0.2, lw=0)
    ax.axvline(xmin, color=GREY, lw=1, ls="--", label=f"xmin = {xmin:.3g}")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(0.5 / n, 1.5)
    for axis in (ax.xaxis, ax.yaxis):
        tick(axis)
    ax.set_xlabel("value")
    ax.set_ylabel("share of values at least as large")
    legend(ax)
    return ax


@styled
def plot_hill(
    k: Index,
    alpha: Array,
    band: tuple[Array, Array],
    level: float,
    ax: Axes | None = None,
) -> Axes:
    """Draw alpha against k with its band.

    Args:
        k: `(P,)` numbers of largest values.
        alpha: `(P,)` the estimates.
        band: `(P,)` lower and `(P,)` upper ends of their intervals.
        level: Probability of the intervals.
        ax: The axes to draw on; those of a new figure by default.
    """
    ax = ax or new_axes(5.2, 3.6)
    low, high = band
    ax.plot(k, alpha, color=BLUE, lw=1.4)
    ax.fill_between(k, low, high, color=BLUE, alpha=0.2, lw=0)
    settled = k >= min(10, int(k[-1]))  # the first few estimates scatter widely
    ax.set_ylim(1, 1.1 * float(high[settled].max()))
    ax.set_xlabel("number of largest values k")
    ax.set_ylabel(rf"$\alpha$, with its {100 * level:g} % interval")
    return ax

"""Pictures of fitted tails. Needs matplotlib: `pip install "bayes-htr[plot]"`."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from bayes_htr.drawing import pyplot, tick
from bayes_htr.tails.rules import Array, law_cdf

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bayes_htr.tails.hill_curve import HillCurve
    from bayes_htr.tails.result import PowerlawFit

_VALUES, _LAW = "#1f5fa8", "#c8401e"


def plot_fit(
    fit: PowerlawFit, ax: Axes | None = None, *, path: str | PathLike[str] | None = None
) -> Axes:
    """The share of values at least as large on log-log axes, with the law and its interval.

    Args:
        fit: The fit.
        ax: Where to draw; a new figure by default.
        path: If given, where the figure is saved.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if ax is None:
        ax = pyplot().subplots(figsize=(4.8, 3.8), layout="constrained")[1]
    share = np.arange(fit.n, 0, -1) / fit.n
    ax.plot(fit.values, share, ".", ms=4, color=_VALUES, label=f"{fit.n} values")
    x = np.geomspace(fit.xmin, fit.values[-1], 200)[: None if fit.xmax is None else -1]
    low, high = fit.searched_interval or fit.interval
    label = rf"$\alpha$ = {fit.alpha:.2f} [{low:.2f}, {high:.2f}]"
    ax.plot(x, _survival(fit, fit.alpha, x), color=_LAW, lw=1.6, label=label)
    ax.fill_between(x, _survival(fit, high, x), _survival(fit, low, x), color=_LAW, alpha=0.2, lw=0)
    ax.axvline(fit.xmin, color="#9a9a9a", lw=1, ls="--", label=f"xmin = {fit.xmin:.3g}")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(0.5 / fit.n, 1.5)
    for axis in (ax.xaxis, ax.yaxis):
        tick(axis)
    ax.set_xlabel("value")
    ax.set_ylabel("share of values at least as large")
    ax.legend(fontsize=7, frameon=False, loc="upper right")
    if path is not None:
        ax.figure.savefig(path, dpi=150)  # type: ignore[union-attr]
    return ax


def plot_hill(
    curve: HillCurve, ax: Axes | None = None, *, path: str | PathLike[str] | None = None
) -> Axes:
    """Alpha against k with its band.

    Args:
        curve: The curve.
        ax: Where to draw; a new figure by default.
        path: If given, where the figure is saved.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if ax is None:
        ax = pyplot().subplots(figsize=(4.8, 3.8), layout="constrained")[1]
    ax.plot(curve.k, curve.alpha, color=_VALUES, lw=1.4)
    ax.fill_between(curve.k, curve.low, curve.high, color=_VALUES, alpha=0.2, lw=0)
    settled = curve.k >= min(10, int(curve.k[-1]))  # the first few estimates are all over the place
    ax.set_ylim(1, 1.1 * float(curve.high[settled].max()))
    ax.set_xlabel("number of largest values k")
    ax.set_ylabel(rf"$\alpha$, with its {100 * curve.level:g} % interval")
    if path is not None:
        ax.figure.savefig(path, dpi=150)  # type: ignore[union-attr]
    return ax


def _survival(fit: PowerlawFit, alpha: float, x: Array) -> Array:
    span = None if fit.xmax is None else np.log(fit.xmax / fit.xmin)
    return fit.n_tail / fit.n * (1 - law_cdf(alpha - 1, np.log(x / fit.xmin), span))

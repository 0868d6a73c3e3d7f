"""The picture of a check: Q-Q plot of the spectrum, and its transforms, both with the band.

Needs matplotlib: `pip install "bayes-htr[plot]"`.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from bayes_htr.drawing import pyplot, tick

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bayes_htr.posterior.checks import SpectrumCheck

_DATA, _LAW = "#1f5fa8", "#9a9a9a"
_SHOWN = 50


def plot_check(check: SpectrumCheck, *, path: str | PathLike[str] | None = None) -> Figure:
    """Two panels.

    Left: eigenvalues against the law's quantiles on log axes. Right: how far the transforms are
    from those of a perfect sample, `F(lambda_(i)) - i / (k + 1)`. Of several draws the left shows
    the median with 95 % intervals, and the right up to 50 of them.

    Args:
        check: The check.
        path: If given, where the figure is saved.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    _quantiles(left, check)
    _transforms(right, check)
    title = f"{check.matrix} against {check.law}: p = {check.p_value:.2g}"
    figure.suptitle(title, fontsize=10)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _quantiles(ax: Axes, check: SpectrumCheck) -> None:
    x, band = check.expected, check.eigenvalue_band
    _band(ax, x, band[:, 0], band[:, 1], check.level)
    ax.plot(x, x, color="black", lw=0.8, ls="--", marker="_" if len(x) == 1 else "")
    low, middle, high = np.quantile(check.eigenvalues, [0.025, 0.5, 0.975], axis=0)
    size = 5 if len(x) < 60 else 2.5
    ax.plot(x, middle, "o", color=_DATA, ms=size, label="spectrum")
    if len(check.eigenvalues) > 1:
        ax.vlines(x, low, high, color=_DATA, lw=1)
    ax.set_xscale("log")
    ax.set_yscale("log")
    if len(x) == 1:
        ax.set_xlim(x[0] / 5, x[0] * 5)
    for axis in (ax.xaxis, ax.yaxis):
        tick(axis)
    ax.set(xlabel="quantile of the law", ylabel=r"eigenvalue $\lambda$")
    ax.legend(fontsize=8, frameon=False, loc="upper left")


def _transforms(ax: Axes, check: SpectrumCheck) -> None:
    k = check.pit.shape[1]
    perfect = np.arange(1, k + 1) / (k + 1)
    low, high = (check.band - perfect[:, None]).T
    _band(ax, perfect, low, high, check.level)
    ax.axhline(0, color="black", lw=0.8, ls="--")
    shown = check.pit[:: -(-len(check.pit) // _SHOWN)] - perfect
    faint = 1.0 if len(shown) == 1 else 0.3
    marker = "." if k < 60 else ""
    ax.plot(perfect, shown.T, color=_DATA, lw=1, alpha=faint, marker=marker)
    ax.set_xlim(0, 1)
    ax.set(xlabel=r"$i / (k + 1)$", ylabel=r"$F(\lambda_{(i)}) - i / (k + 1)$")


def _band(ax: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, level: float) -> None:
    label = f"{100 * level:g} % band of the law"
    if len(x) == 1:
        ax.vlines(x, low, high, color=_LAW, lw=6, alpha=0.5, label=label)
    else:
        ax.fill_between(x, low, high, color=_LAW, alpha=0.4, lw=0, label=label)

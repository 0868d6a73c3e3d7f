"""Pictures of results: ratios by network and prior, and growth with the size of a matrix.

Needs matplotlib: `pip install "bayes-htr[plot]"`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_htr._plotting import pyplot
from benchmarks.common.pictures import log_axis, save
from benchmarks.common.results import Results
from benchmarks.cost.growth import LINES, growth_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = ("#1f5fa8", "#c8401e", "#3a8a4d", "#8a5fb0")
_LIMIT = "#666666"
_STYLES = {"plain_ms": ("#9a9a9a", "s"), "ours_ms": ("#1f5fa8", "o"), "naive_ms": ("#c8401e", "^")}


@dataclass(frozen=True)
class Limits:
    """Bounds that are marked in a picture, where given.

    Attributes:
        ratio: At most, of the time to plain training.
        naive: At least, of naive autograd's time to ours.
        share: At most, of the prior in a step.
    """

    ratio: float | None = None
    naive: float | None = None
    share: float | None = 0.03


@dataclass(frozen=True)
class _Point:
    """A value with its range, of a network and a prior."""

    net: str
    prior: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class _Panel:
    """A kind of ratio: its points, its limit with the side of it that is good, and a baseline."""

    label: str
    points: list[_Point]
    limit: float | None
    bound: str
    baseline: float


def draw_overhead(results: Results, limits: Limits) -> list[Path]:
    """Write `overhead.png`: a panel for each kind of ratio that there is.

    Raises:
        ImportError: matplotlib is not installed.
    """
    panels = [panel for panel in _panels(results, limits) if panel.points]
    if not panels:
        return []
    plt = pyplot()
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.6 * len(panels), 3.6), squeeze=False, layout="constrained"
    )
    priors = list(dict.fromkeys(cell.split("/")[1] for cell in results.cells))
    for ax, panel in zip(axes.flat, panels, strict=True):
        _draw_panel(ax, panel, priors)
    handles = [plt.Line2D([], [], color=_color(p, priors), marker="o", ls="") for p in priors]
    figure.legend(
        handles, priors, loc="outside upper center", ncols=len(priors), frameon=False, fontsize=8
    )
    return [save(figure, results.folder / "overhead.png")]


def draw_growth(results: Results) -> list[Path]:
    """Write `growth.png`: time per step against the size on log-log axes, a panel for each prior.

    Raises:
        ImportError: matplotlib is not installed.
    """
    plt = pyplot()
    points = growth_points(results)
    if not points:
        return []
    figure, axes = plt.subplots(
        1,
        len(points),
        figsize=(4.6 * len(points), 3.8),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for ax, (prior, sizes) in zip(axes.flat, points.items(), strict=True):
        _draw_growth(ax, sizes)
        ax.set_title(prior, fontsize=10)
    axes.flat[0].set_ylabel("milliseconds per step")
    return [save(figure, results.folder / "growth.png")]


def _panels(results: Results, limits: Limits) -> list[_Panel]:
    times, naives, shares = [], [], []
    for cell in results.cells:
        net, prior = cell.split("/")
        if cost := results.result(cell, "cost"):
            r = cost["ratio"]
            times.append(_Point(net, prior, r["median"], r["min"], r["max"]))
            if cost["naive"] is not None:
                ratio = cost["naive"]["ratio"]
                naives.append(_Point(net, prior, ratio, ratio, ratio))
        if share := results.result(cell, "share"):
            percent = 100 * share["share"]
            shares.append(_Point(net, prior, percent, percent, percent))
    most = None if limits.share is None else 100 * limits.share
    return [
        _Panel("time with the prior / plain training", times, limits.ratio, "at most", 1.0),
        _Panel("time of naive autograd / ours", naives, limits.naive, "at least", 1.0),
        _Panel("the prior's share of a step, %", shares, most, "at most", 0.0),
    ]


def _draw_panel(ax: Axes, panel: _Panel, priors: Sequence[str]) -> None:
    nets = list(dict.fromkeys(point.net for point in panel.points))
    width = 0.6 / max(1, len(priors) - 1)
    for point in panel.points:
        shift = (priors.index(point.prior) - (len(priors) - 1) / 2) * width
        ax.errorbar(
            nets.index(point.net) + shift,
            point.value,
            yerr=[[point.value - point.low], [point.high - point.value]],
            fmt="o",
            ms=5,
            capsize=3 if point.high > point.low else 0,
            color=_color(point.prior, priors),
        )
    ax.set_xticks(range(len(nets)), nets)
    ax.set_xlim(-0.6, len(nets) - 0.4)
    ax.margins(y=0.15)
    ax.grid(axis="y", color="#e6e6e6")
    ax.set_axisbelow(True)
    ax.set_ylabel(panel.label)
    ax.axhline(panel.baseline, color="#bbbbbb", lw=1)
    _draw_limit(ax, panel.limit, panel.bound)
    if panel.baseline > 0 and max(p.high for p in panel.points) > 20:
        log_axis(ax)


def _draw_limit(ax: Axes, limit: float | None, bound: str) -> None:
    if limit is None:
        return
    ax.axhline(limit, color=_LIMIT, lw=1, ls="--")
    ax.annotate(
        f"{bound} {limit:g}",
        (1, limit),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 3),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=_LIMIT,
    )


def _draw_growth(ax: Axes, sizes: dict[int, dict[str, float]]) -> None:
    n = list(sizes)
    for name, label in LINES.items():
        color, marker = _STYLES[name]
        ax.plot(n, [sizes[k][name] for k in n], marker=marker, color=color, label=label, ms=5)
    ax.set_xscale("log", base=2)
    ax.set_xticks(n, [str(k) for k in n])
    ax.minorticks_off()
    log_axis(ax)
    ax.set_xlabel("rows and columns of the matrix")
    ax.grid(color="#e6e6e6")
    ax.set_axisbelow(True)
    ax.legend(fontsize=8, frameon=False)


def _color(prior: str, priors: Sequence[str]) -> str:
    return _COLORS[priors.index(prior) % len(_COLORS)]

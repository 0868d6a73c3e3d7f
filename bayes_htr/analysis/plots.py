"""Pictures of a report. Needs matplotlib: `pip install "bayes-htr[plot]"`.

The arrays come from `bayes_htr.analysis.curves`; the HTML page draws the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes_htr._plotting import literal, pyplot, tick
from bayes_htr.analysis.columns import interval_ends
from bayes_htr.analysis.curves import (
    MatrixSpectrum,
    bulk_density,
    histogram,
    interval_of,
    matrix_spectrum,
    survival,
    tail_density,
)
from bayes_htr.analysis.measured import MeasuredSpectra
from bayes_htr.analysis.verdict import KINDS, LIGHT, VERY_HEAVY, kind_of
from bayes_htr.errors import SpectrumError
from bayes_htr.tails import hill_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VALUES, LAW, BULK, QUIET = "#1f5fa8", "#c8401e", "#0b7a75", "#8a8a8a"
_PICTURED = 6


def plot_matrix(
    report: MeasuredSpectra, name: str, *, path: str | PathLike[str] | None = None
) -> Figure:
    """One matrix: its ESD, the share of eigenvalues at least as large, and its Hill curve.

    Args:
        report: The report.
        name: The matrix.
        path: If given, where the figure is saved.

    Raises:
        ValueError: No such matrix.
        ImportError: matplotlib is not installed.
    """
    spectrum = matrix_spectrum(report, name)
    figure, axes = pyplot().subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    figure.suptitle(literal(f"{name}: {spectrum.row['verdict']}"), fontsize=11)
    draw_esd(axes[0], spectrum, legend=True)
    if spectrum.fit is None:
        x, y = survival(spectrum)
        axes[1].plot(x, y, ".", ms=4, color=VALUES)
        axes[1].set(xlabel="value", ylabel="share of values at least as large")
        logarithmic(axes[1])
    else:
        spectrum.fit.plot(axes[1])
    try:
        hill_curve(spectrum.values, level=report.settings["level"]).plot(axes[2])
    except SpectrumError:
        say(axes[2], "no tail")
    else:
        if spectrum.fit is not None:
            axes[2].plot(spectrum.fit.n_tail, spectrum.fit.alpha, "o", color=LAW, ms=6)
    return saved(figure, path)


def plot_report(report: MeasuredSpectra, *, path: str | PathLike[str] | None = None) -> Figure:
    """The network: alpha against depth, and the ESDs of up to six matrices from first to last.

    Args:
        report: The report.
        path: If given, where the figure is saved.

    Raises:
        ImportError: matplotlib is not installed.
    """
    names = [str(row["name"]) for row in report.rows]
    places = np.unique(np.linspace(0, len(names) - 1, _PICTURED).round().astype(int))
    rows = -(-len(places) // 3)
    figure = pyplot().figure(figsize=(12, 3.8 + 3.2 * rows), layout="constrained")
    grid = figure.add_gridspec(1 + rows, 3, height_ratios=[1.2] + [1] * rows)
    figure.suptitle(literal(f"Spectra of {report.label}"), fontsize=12)
    plot_alpha(report, figure.add_subplot(grid[0, :]))
    for i, place in enumerate(places):
        ax = figure.add_subplot(grid[1 + i // 3, i % 3])
        spectrum = matrix_spectrum(report, names[place])
        draw_esd(ax, spectrum, legend=i == 0)
        ax.set_title(literal(f"{place}: {names[place]}"), fontsize=9)
    return saved(figure, path)


def plot_alpha(report: MeasuredSpectra, ax: Axes | None = None) -> Axes:
    """Alpha of each matrix, by depth, with its interval; markers by the kind of verdict.

    Hollow markers: the tail is not known to be a power law.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if ax is None:
        ax = pyplot().subplots(figsize=(8, 3.6), layout="constrained")[1]
    for kind in KINDS:
        places = [i for i, row in enumerate(report.rows) if kind_of(row) is kind]
        if not places:
            continue
        color = VALUES if kind.filled else QUIET
        label = f"{kind.label} ({len(places)})"
        draw_intervals(ax, report.rows, places, color, kind.mark, kind.filled, label)
    ax.axhspan(VERY_HEAVY, LIGHT, color=QUIET, alpha=0.12, lw=0)
    ax.set_yscale("log")
    ax.set_ylim(*alpha_limits(report.rows))
    tick(ax.yaxis)
    ax.set_xlim(-0.7, len(report.rows) - 0.3)
    count_on(ax, len(report.rows))
    level = report.settings["level"]
    ax.set_ylabel(rf"$\alpha$, with its {100 * level:g} % interval")
    ax.legend(fontsize=8, frameon=False, loc="upper right")
    return ax


def draw_esd(
    ax: Axes, spectrum: MatrixSpectrum, *, color: str = VALUES, legend: bool = False
) -> None:
    """The ESD on log-log axes with the fitted tail, its band, and the Marchenko-Pastur bulk."""
    found = histogram(spectrum)
    if found is None:
        say(ax, "all eigenvalues are equal")
        return
    ax.stairs(found.density, found.edges, fill=True, color=color, alpha=0.3)
    ax.stairs(found.density, found.edges, color=color, lw=1, label=f"{spectrum.count} eigenvalues")
    x, y = bulk_density(spectrum, float(found.edges[0]))
    if len(x):
        ax.plot(x, y, "--", color=BULK, lw=1.6, label="Marchenko-Pastur bulk")
    tail = tail_density(spectrum)
    if tail is not None and spectrum.fit is not None:
        low, high = interval_of(spectrum.fit)
        label = rf"$\alpha$ = {spectrum.fit.alpha:.2f} [{low:.2f}, {high:.2f}]"
        ax.plot(tail.x, tail.y, color=LAW, lw=1.6, label=label)
        ax.fill_between(tail.x, tail.low, tail.high, color=LAW, alpha=0.2, lw=0)
        ax.axvline(spectrum.fit.xmin, color=QUIET, lw=1, ls=":")
    logarithmic(ax)
    seen = found.density[found.density > 0]
    ax.set_ylim(float(seen.min()) / 3, float(seen.max()) * (8 if legend else 3))
    tick(ax.yaxis)
    ax.set(xlabel=r"eigenvalue $\lambda$", ylabel="density")
    if legend:
        ax.legend(fontsize=7, frameon=False, loc="lower left")


def draw_intervals(
    ax: Axes,
    rows: Sequence[dict[str, Any]],
    places: Sequence[int],
    color: str,
    mark: str,
    filled: bool,
    label: str,
    shift: float = 0.0,
) -> None:
    """Alpha of rows at their depth, with intervals."""
    alpha = np.array([rows[i]["alpha"] for i in places], dtype=float)
    ends = np.array([interval_ends(rows[i]) for i in places], dtype=float).reshape(-1, 2)
    x = np.array(places) + shift
    ax.vlines(x, ends[:, 0], ends[:, 1], color=color, lw=1.4)
    face = color if filled else "white"
    ax.plot(x, alpha, mark, ms=5, color=color, mfc=face, label=label)


def alpha_limits(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Of a logarithmic axis of alpha: all estimates, and intervals up to three times the largest.

    The bounds of heavy tails are always in view.
    """
    alphas = [row["alpha"] for row in rows if math.isfinite(row["alpha"])]
    ends = [end for row in rows for end in interval_ends(row) if math.isfinite(end)]
    most = max([LIGHT, *alphas])
    high = min(max([most, *ends]), 3 * most)
    low = max(min([VERY_HEAVY, *alphas, *ends]), 1.0)
    return low / 1.08, high * 1.15


def count_on(ax: Axes, count: int) -> None:
    """Whole numbers at the depth axis."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(min(count, 12), integer=True))
    ax.set_xlabel("matrix, from first to last")


def logarithmic(ax: Axes) -> None:
    """Both axes, with ticks to read."""
    ax.set_xscale("log")
    ax.set_yscale("log")
    for axis in (ax.xaxis, ax.yaxis):
        tick(axis)


def say(ax: Axes, words: str) -> None:
    """Words in place of a picture."""
    ax.text(0.5, 0.5, words, transform=ax.transAxes, ha="center", color=QUIET)
    ax.set_xticks([])
    ax.set_yticks([])


def saved(figure: Figure, path: str | PathLike[str] | None) -> Figure:
    """The figure, saved where a path is given."""
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure

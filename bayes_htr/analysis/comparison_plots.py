"""Pictures of two checkpoints. Needs matplotlib: `pip install "bayes-htr[plot]"`."""

from __future__ import annotations

import math
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from bayes_htr._plotting import literal, pyplot, tick
from bayes_htr.analysis.checkpoints import PairedSpectra
from bayes_htr.analysis.curves import histogram, log_edges, matrix_spectrum, tail_density
from bayes_htr.analysis.plots import (
    LAW,
    VALUES,
    alpha_limits,
    count_on,
    draw_intervals,
    logarithmic,
    saved,
    say,
)
from bayes_htr.analysis.verdict import kind_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHIFT = 0.14


def plot_comparison(
    comparison: PairedSpectra, *, path: str | PathLike[str] | None = None
) -> Figure:
    """Alpha with its interval and the largest eigenvalue of each matrix, in both networks.

    Args:
        comparison: The comparison.
        path: If given, where the figure is saved.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = pyplot().subplots(2, 1, figsize=(10, 6.4), sharex=True, layout="constrained")
    sides = list(zip(comparison.sides(), (VALUES, LAW), "os", (-_SHIFT, _SHIFT), strict=True))
    for (label, rows), color, mark, shift in sides:
        for filled in (True, False):  # hollow: not known to be a power law
            places = [i for i, r in enumerate(rows) if kind_of(r).filled is filled]
            draw_intervals(axes[0], rows, places, color, mark, filled, "", shift)
        largest = [row["lambda_max"] for row in rows]
        x = np.arange(len(rows)) + shift
        axes[1].plot(x, largest, mark, color=color, ms=5, label=literal(label))
    axes[0].set_yscale("log")
    axes[0].set_ylim(*alpha_limits([row for (_, rows), *_ in sides for row in rows]))
    if any(row["lambda_max"] > 0 for _, rows in comparison.sides() for row in rows):
        axes[1].set_yscale("log")
        tick(axes[1].yaxis)
    tick(axes[0].yaxis)
    for ax, label in zip(axes, (r"$\alpha$", r"largest eigenvalue $\lambda_1$"), strict=True):
        ax.set_ylabel(label)
        ax.grid(axis="x", alpha=0.3)
    axes[1].legend(fontsize=8, frameon=False, loc="upper right")
    axes[1].set_xlim(-0.7, len(comparison.rows) - 0.3)
    count_on(axes[1], len(comparison.rows))
    return saved(figure, path)


def plot_pair(
    comparison: PairedSpectra,
    name: str,
    *,
    path: str | PathLike[str] | None = None,
) -> Figure:
    """The ESDs of one matrix in both networks, with their fitted tails.

    Args:
        comparison: The comparison.
        name: The matrix.
        path: If given, where the figure is saved.

    Raises:
        ValueError: No such matrix in both.
        ImportError: matplotlib is not installed.
    """
    comparison.check(name)
    reports = (comparison.first, comparison.second)
    spectra = [matrix_spectrum(report, name) for report in reports]
    labels = [label for label, _ in comparison.sides()]
    figure, ax = pyplot().subplots(figsize=(5.6, 4.2), layout="constrained")
    edges = log_edges(np.sort(np.concatenate([s.values for s in spectra])))
    if edges is None:
        say(ax, "all eigenvalues are equal")
        return saved(figure, path)
    heights = []
    for spectrum, called, color in zip(spectra, labels, (VALUES, LAW), strict=True):
        found = histogram(spectrum, edges)
        assert found is not None  # the edges are given
        alpha = spectrum.row["alpha"]
        exponent = "no exponent" if math.isnan(alpha) else rf"$\alpha$ = {alpha:.2f}"
        label = f"{literal(called)}: {exponent}"
        ax.stairs(found.density, edges, color=color, lw=1.2, label=label)
        tail = tail_density(spectrum)
        if tail is not None:
            ax.plot(tail.x, tail.y, color=color, lw=1.6)
            ax.fill_between(tail.x, tail.low, tail.high, color=color, alpha=0.15, lw=0)
        heights.append(found.density[found.density > 0])
    logarithmic(ax)
    seen = np.concatenate(heights)
    ax.set_ylim(float(seen.min()) / 3, float(seen.max()) * 4)
    tick(ax.yaxis)
    ax.set(xlabel=r"eigenvalue $\lambda$", ylabel="density")
    ax.set_title(literal(name), fontsize=10)
    ax.legend(fontsize=7, frameon=False, loc="lower left")
    return saved(figure, path)

"""Pictures of analysed matrices.

They need matplotlib (`pip install "bayes-htr[plot]"`), and raise an `ImportError` without it. The
arrays come from `bayes_htr.analysis.curves`; the HTML page draws the same ones.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes_htr._plotting import (
    BLUE,
    GREY,
    NOTE,
    RED,
    TEAL,
    WIDEST,
    legend,
    literal,
    log_bins,
    new_axes,
    new_panels,
    pyplot,
    shortened,
    spread,
    styled,
    tick,
)
from bayes_htr.analysis import curves
from bayes_htr.analysis.esd import Array
from bayes_htr.analysis.matrix import MatrixSpectrum
from bayes_htr.analysis.verdict import KINDS, LIGHT, VERY_HEAVY
from bayes_htr.errors import SpectrumError
from bayes_htr.tails import hill_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_ESDS = 6
_MOST_NAMES = 40
"""The number of names that an axis has room for."""
_LONGEST = 26
"""The number of letters of a name below an axis."""
_SHIFT = 0.14


@styled
def plot_matrix(spectrum: MatrixSpectrum, level: float) -> Figure:
    """Draw the ESD of a matrix, the share of eigenvalues at least as large, and its Hill curve.

    Args:
        spectrum: The matrix.
        level: Probability of the intervals of the Hill curve.
    """
    figure: Figure = pyplot().figure(figsize=(WIDEST, 7.4), layout="constrained")
    named = figure.subplot_mosaic([["esd", "esd"], ["survival", "hill"]])
    axes = [named[name] for name in ("esd", "survival", "hill")]
    verdict = literal(f"{spectrum.name}: {spectrum.row['verdict']}")
    figure.suptitle(textwrap.fill(verdict, 90))
    _draw_esd(axes[0], spectrum)
    legend(axes[0], columns=2)
    if not len(spectrum.values):
        _say(axes[1], _why_nothing(spectrum))
    elif spectrum.fit is None or not curves.has_law(spectrum):
        x, y = curves.survival(spectrum)
        axes[1].plot(x, y, ".", ms=4, color=BLUE)
        axes[1].set(xlabel=r"eigenvalue $\lambda$", ylabel="share at least as large")
        _make_logarithmic(axes[1])
    else:
        spectrum.fit.plot(axes[1])
        axes[1].set_xlabel(r"eigenvalue $\lambda$")
    try:
        hill_curve(spectrum.values, level=level).plot(axes[2])
    except SpectrumError:
        _say(axes[2], "no tail")
    else:
        if spectrum.fit is not None:
            axes[2].plot(spectrum.fit.n_tail, spectrum.fit.alpha, "o", color=RED, ms=6)
    return figure


@styled
def plot_network(spectra: Sequence[MatrixSpectrum], label: str, level: float) -> Figure:
    """Draw alpha against depth, and the ESDs of up to six matrices from the first to the last.

    Args:
        spectra: The matrices of the network.
        label: The name of the network in the title.
        level: Probability of the intervals of alpha.
    """
    places = spread(len(spectra), _MOST_ESDS)
    rows = -(-len(places) // 3)
    names = _room_for_names(spectra)
    size = (WIDEST, 3.9 + names + 2.7 * rows)
    figure: Figure = pyplot().figure(figsize=size, layout="constrained")
    title = f"Spectra of {label}"
    if len(places) < len(spectra):
        title += f": alpha of all {len(spectra)} matrices, and {len(places)} of the spectra"
    figure.suptitle(textwrap.fill(literal(title), 90))
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=[3.6 + names, 2.7 * rows])
    upper, lower = parts[:, 0]
    _draw_alpha(upper.subplots(), spectra, level)
    for ax, place in zip(lower.subplots(rows, 3, squeeze=False).flat, places, strict=False):
        _draw_esd(ax, spectra[place], room=12)
        ax.set_title(shortened(spectra[place].name), fontsize=NOTE)
        if spectra[place].kind.filled:
            exponent = rf"$\alpha$ = {spectra[place].alpha:.2f}"
            ax.text(0.97, 0.97, exponent, transform=ax.transAxes, ha="right", va="top")
    for ax in lower.axes[len(places) :]:
        ax.remove()
    return figure


@styled
def plot_comparison(sides: Sequence[tuple[str, Sequence[MatrixSpectrum]]]) -> Figure:
    """Draw alpha with its interval and the largest eigenvalue of each matrix in both networks.

    Args:
        sides: The label and the matrices of each network, the same matrices in the same order.
    """
    height = 6.4 + _room_for_names(sides[0][1])
    figure, axes = new_panels(2, 1, WIDEST, height, sharex=True)
    styles = zip((BLUE, RED), "os", (-_SHIFT, _SHIFT), strict=True)
    for (label, spectra), (color, mark, shift) in zip(sides, styles, strict=True):
        for filled in (True, False):  # hollow: not known to be a power law
            places = [i for i, s in enumerate(spectra) if s.kind.filled is filled]
            _draw_intervals(axes[0], spectra, places, color, mark, filled, shift=shift)
        largest = [s.row["lambda_max"] for s in spectra]
        x = np.arange(len(spectra)) + shift
        axes[1].plot(x, largest, mark, color=color, ms=5, label=literal(label))
    both = [s for _, spectra in sides for s in spectra]
    axes[0].set_yscale("log")
    axes[0].set_ylim(*curves.alpha_limits(both))
    if any(s.row["lambda_max"] > 0 for s in both):
        axes[1].set_yscale("log")
        tick(axes[1].yaxis)
    tick(axes[0].yaxis)
    for ax, label in zip(axes, (r"$\alpha$", r"largest eigenvalue $\lambda_1$"), strict=True):
        ax.set_ylabel(label)
        ax.grid(axis="x", alpha=0.3)
    _name_depth(axes[1], sides[0][1])
    figure.legend(loc="outside upper right", ncols=2)
    return figure


@styled
def plot_pair(sides: Sequence[tuple[str, MatrixSpectrum]]) -> Figure:
    """Draw the ESDs of one matrix in both networks, with their fitted tails.

    Args:
        sides: The label of each network, and the matrix in it.
    """
    ax = new_axes(5.6, 4.6)
    figure: Any = ax.figure
    edges = log_bins(np.concatenate([s.values for _, s in sides]))
    if edges is None:
        _say(ax, _why_nothing(sides[0][1]))
        return figure
    densities = [curves.density(s, edges) for _, s in sides]
    for (label, spectrum), heights, color in zip(sides, densities, (BLUE, RED), strict=True):
        exponent = rf"$\alpha$ = {spectrum.alpha:.2f}"
        if not curves.has_law(spectrum):
            exponent = "no exponent"
        ax.stairs(heights, edges, color=color, lw=1.2, label=f"{literal(label)}: {exponent}")
        _draw_tail(ax, spectrum, color, band=0.15)
    _finish_densities(ax, np.concatenate(densities))
    ax.set_title(shortened(sides[0][1].name))
    legend(ax)
    return figure


def _draw_alpha(ax: Axes, spectra: Sequence[MatrixSpectrum], level: float) -> None:
    """Draw alpha of each matrix by depth, with its interval; the verdict's kind gives the marker.

    Hollow markers belong to tails that are not known to be power laws.
    """
    for kind in KINDS:
        places = [i for i, s in enumerate(spectra) if s.kind is kind]
        if places:
            color = BLUE if kind.filled else GREY
            label = f"{kind.label} ({len(places)})"
            _draw_intervals(ax, spectra, places, color, kind.mark, kind.filled, label)
    ax.axhspan(VERY_HEAVY, LIGHT, color=GREY, alpha=0.12, lw=0)
    ax.set_yscale("log")
    ax.set_ylim(*curves.alpha_limits(spectra))
    tick(ax.yaxis)
    _name_depth(ax, spectra)
    ax.set_ylabel(rf"$\alpha$, with its {100 * level:g} % interval")
    figure: Any = ax.figure
    figure.legend(loc="outside upper left", ncols=3)


def _draw_esd(ax: Axes, spectrum: MatrixSpectrum, *, room: float = 3) -> None:
    """Draw the ESD on log-log axes with the fitted tail, its band, and the random bulk.

    Args:
        ax: The axes.
        spectrum: The matrix.
        room: The height of the axes relative to that of the highest bar.
    """
    edges = log_bins(spectrum.values)
    if edges is None:
        _say(ax, _why_nothing(spectrum))
        return
    heights = curves.density(spectrum, edges)
    ax.stairs(heights, edges, fill=True, color=BLUE, alpha=0.3)
    ax.stairs(heights, edges, color=BLUE, lw=1, label=f"{spectrum.count} eigenvalues")
    x, y = curves.bulk_density(spectrum, float(edges[0]))
    if len(x):
        ax.plot(x, y, "--", color=TEAL, lw=1.6, label="Marchenko-Pastur bulk")
    if spectrum.fit is not None and curves.has_law(spectrum):
        low, high = spectrum.fit.shown_interval
        label = rf"$\alpha$ = {spectrum.fit.alpha:.2f} [{low:.2f}, {high:.2f}]"
        _draw_tail(ax, spectrum, RED, band=0.2, label=label)
        ax.axvline(spectrum.fit.xmin, color=GREY, lw=1, ls=":")
    _finish_densities(ax, heights, room)


def _draw_tail(
    ax: Axes, spectrum: MatrixSpectrum, color: str, *, band: float, label: str | None = None
) -> None:
    """Draw the fitted tail, with a band of opacity `band`, if there is a law to draw."""
    tail = curves.tail_density(spectrum)
    if tail is not None:
        ax.plot(tail.x, tail.y, color=color, lw=1.6, label=label)
        ax.fill_between(tail.x, tail.low, tail.high, color=color, alpha=band, lw=0)


def _draw_intervals(
    ax: Axes,
    spectra: Sequence[MatrixSpectrum],
    places: Sequence[int],
    color: str,
    mark: str,
    filled: bool,
    label: str = "",
    shift: float = 0.0,
) -> None:
    """Draw alpha of the matrices at some places, with intervals."""
    alpha = np.array([spectra[i].alpha for i in places], dtype=float)
    ends = np.array([spectra[i].interval for i in places], dtype=float).reshape(-1, 2)
    x = np.array(places) + shift
    ax.vlines(x, ends[:, 0], ends[:, 1], color=color, lw=1.4)
    ax.plot(x, alpha, mark, ms=5, color=color, mfc=color if filled else "white", label=label)


def _name_depth(ax: Axes, spectra: Sequence[MatrixSpectrum]) -> None:
    """Write the names of matrices below the axis of depth, or numbers if there is no room."""
    from matplotlib.ticker import MaxNLocator

    ax.set_xlim(-0.7, len(spectra) - 0.3)
    if len(spectra) <= _MOST_NAMES:
        names = [shortened(s.name, _LONGEST) for s in spectra]
        ax.set_xticks(range(len(names)), names, rotation=90 if len(names) > 6 else 0, fontsize=8)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(12, integer=True))
        first, last = (shortened(s.name) for s in (spectra[0], spectra[-1]))
        ax.set_xlabel(f"matrix, from 0 ({first}) to {len(spectra) - 1} ({last})")


def _room_for_names(spectra: Sequence[MatrixSpectrum]) -> float:
    """Return the height in inches of the names below an axis of depth."""
    if not 6 < len(spectra) <= _MOST_NAMES:
        return 0.0
    return 0.07 * min(_LONGEST, max(len(s.name) for s in spectra))


def _finish_densities(ax: Axes, heights: Array, room: float = 3) -> None:
    """Set the axes of a picture of densities, with room above the highest."""
    _make_logarithmic(ax)
    seen = heights[heights > 0]
    ax.set_ylim(float(seen.min()) / 3, float(seen.max()) * room)
    tick(ax.yaxis)
    ax.set(xlabel=r"eigenvalue $\lambda$", ylabel="density")


def _make_logarithmic(ax: Axes) -> None:
    ax.set_xscale("log")
    ax.set_yscale("log")
    for axis in (ax.xaxis, ax.yaxis):
        tick(axis)


def _why_nothing(spectrum: MatrixSpectrum) -> str:
    """Return the words that stand in place of a spectrum that cannot be drawn."""
    if not len(spectrum.values):
        finite = bool(np.isfinite(spectrum.eigenvalues).all())
        return "all eigenvalues are zero" if finite else "not finite"
    return "all eigenvalues are equal"


def _say(ax: Axes, words: str) -> None:
    """Write words in place of a picture."""
    ax.text(0.5, 0.5, words, transform=ax.transAxes, ha="center", color=GREY)
    ax.set_xticks([])
    ax.set_yticks([])

"""Figures of posterior spectra and of their summaries.

They need matplotlib: `pip install "bayes-htr[plot]"`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy

from bayes_htr._plotting import (
    BLUE,
    GREY,
    INK,
    NOTE,
    WIDEST,
    Array,
    bin_density,
    legend,
    log_bins,
    new_axes,
    note_left_out,
    pyplot,
    save,
    shortened,
    spread,
    styled,
    tick,
)
from bayes_htr.posterior.summary import SpectraSummary, SummaryRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = (BLUE, GREY)
"""The colours of a spectrum, and of the one behind it."""

_LEGEND = 44
"""The number of characters in a line of a legend."""

_WIDE, _NARROW = 3.35, 1.45
"""The widths in inches of a panel with a spectrum, and of one that only has words."""

_MOST_PANELS = 6
"""The number of panels in a figure of all matrices."""


@dataclass(frozen=True)
class PlottedSpectrum:
    """The spectrum of one matrix as a figure shows it.

    Attributes:
        draws: Draws of the eigenvalues: `(S, K)`, descending.
        typical: The typical eigenvalue at each rank: `(K,)`, descending.
        row: The summary of the matrix.
        label: The name of the spectrum in the legend; may be empty.
        law: The label of the law that the prior states for all eigenvalues, and its density at
            eigenvalues `(B,)`; `None` if the prior states none.
        largest: The label of the law that the prior states for the largest eigenvalue alone, and
            the ends of its 95 % interval; `None` if the prior states none.
    """

    draws: Array
    typical: Array
    row: SummaryRow
    label: str = ""
    law: tuple[str, Callable[[Array], Array]] | None = None
    largest: tuple[str, float, float] | None = None

    @property
    def words(self) -> str:
        """The first words of the legend, before those about the spectrum."""
        return f"{self.label}: " if self.label else ""

    @property
    def positive(self) -> Array:
        """All eigenvalues that a logarithmic axis can show.

        Eigenvalues of a rank-deficient matrix that are zero up to rounding are left out.
        """
        values = self.draws.reshape(-1)
        return values[values > 1e-12 * max(values.max(), 1e-300)]


@styled
def plot_spectrum(
    spectrum: PlottedSpectrum,
    ax: Axes | None = None,
    *,
    behind: PlottedSpectrum | None = None,
    path: str | PathLike[str] | None = None,
) -> Axes:
    """Plot the density of the eigenvalues on log-log axes, with the fitted tail.

    A power law of exponent alpha is a straight line of slope `-alpha`, so a flatter line means a
    heavier tail. The line begins where the tail does. It has the share of the eigenvalues that the
    tail has, so it lies on the bars of the eigenvalues that it was fitted to. The band around it is
    the 95 % credible interval of alpha. A matrix with too few eigenvalues has no line.

    If there are several draws, the bars are the mean over the draws, with the 95 % credible band
    of their heights. The band ends with the eigenvalues. Since a logarithmic axis has no zero, its
    lower edge does not go below a fifth of one eigenvalue, or the mean. If no exponent can be
    read, the legend says why.

    A law that the prior states for all eigenvalues is drawn as a density, at the hyperparameters of
    the posterior and before any strength. A law of the largest eigenvalue alone is no density of
    eigenvalues; its 95 % interval is drawn as a bar at the top.

    Args:
        spectrum: The spectrum.
        ax: The axes to draw on; the default is a new figure.
        behind: Another spectrum of the same matrix, shown behind in grey.
        path: The file that the figure is saved in, if given.

    Raises:
        ImportError: matplotlib is not installed.
        OutputError: The file cannot be written.
    """
    if ax is None:
        ax = new_axes(5.2, 4.6)
    spectra = [spectrum] if behind is None else [spectrum, behind]
    if all(_bins(each) is not None for each in spectra):
        _draw_spectra(ax, spectra)
    else:
        for each, color in zip(spectra, _COLORS, strict=False):
            ax.axvline(each.row.lambda_max.mean, color=color, label=each.words + each.row.problem)
    ax.set_title(shortened(spectrum.row.matrix))
    ax.set_xlabel(r"eigenvalue $\lambda$ of $W^\top W$")
    ax.set_ylabel("density")
    handles, texts = ax.get_legend_handles_labels()
    legend(ax, handles=handles[::-1], labels=texts[::-1])
    save(ax, path)
    return ax


@styled
def plot_spectra(panels: Sequence[Sequence[PlottedSpectrum]], most: int = _MOST_PANELS) -> Figure:
    """Plot a panel for each matrix, as `plot_spectrum` does.

    If there are more matrices than `most`, the figure has `most` of them, evenly spaced from the
    first to the last, and names the others below. A matrix that has too few eigenvalues for an
    exponent gets a narrow panel, which says so and states its largest eigenvalue.

    Args:
        panels: For each matrix its spectrum, and after it the one behind it, if there is one.
        most: The largest number of panels.

    Raises:
        ImportError: matplotlib is not installed.
    """
    places = spread(len(panels), most)
    left_out = [p[0].row.matrix for i, p in enumerate(panels) if i not in places]
    panels = [panels[place] for place in places]
    rows = _rows([_NARROW if panel[0].row.few else _WIDE for panel in panels])
    width = max((sum(widths) for widths in rows), default=_WIDE)
    size = (width, 3.9 * max(1, len(rows)) + 0.3 * bool(left_out))
    figure: Figure = pyplot().figure(figsize=size, layout="constrained")
    parts = figure.subfigures(max(1, len(rows)), squeeze=False)[:, 0]
    remaining = iter(panels)
    for widths, part in zip(rows, parts, strict=False):
        ratios = [*widths, width - sum(widths)] if sum(widths) < width - 1e-9 else widths
        axes = part.subplots(1, len(ratios), width_ratios=ratios, squeeze=False)[0]
        for ax in axes[len(widths) :]:
            ax.set_axis_off()
        for ax, panel in zip(axes[: len(widths)], remaining, strict=False):
            if panel[0].row.few:
                _write_few(ax, panel)
            else:
                plot_spectrum(panel[0], ax, behind=panel[1] if len(panel) > 1 else None)
    note_left_out(figure, left_out)
    return figure


@styled
def plot_alpha(
    summary: SpectraSummary,
    ax: Axes | None = None,
    *,
    path: str | PathLike[str] | None = None,
) -> Axes:
    """Plot the exponent of the tail of each matrix with its credible interval.

    For a matrix without an exponent, words say why there is none.

    Args:
        summary: The summary of the matrices.
        ax: The axes to draw on; the default is a new figure.
        path: The file that the figure is saved in, if given.

    Raises:
        ImportError: matplotlib is not installed.
    """
    rows = summary.rows
    if ax is None:
        ax = new_axes(6.2, 1.0 + 0.3 * len(rows))
    for place, row in enumerate(rows):
        if row.alpha is None:
            ax.annotate(
                row.problem,
                (0.02, place),
                xycoords=("axes fraction", "data"),
                va="center",
                color=GREY,
                fontsize=NOTE,
            )
        else:
            ax.plot([row.alpha.low, row.alpha.high], [place, place], color=BLUE, lw=1.6)
            ax.plot(row.alpha.mean, place, "o", color=BLUE, ms=5)
    ax.set_yticks(range(len(rows)), [shortened(row.matrix) for row in rows], fontsize=NOTE)
    ax.set_ylim(len(rows) - 0.5, -0.5)  # the first layer is at the top
    ax.set_xlabel(rf"$\alpha$ of the tail: mean and {100 * summary.level:g} % interval")
    ax.grid(axis="x", alpha=0.3)
    save(ax, path)
    return ax


@styled
def plot_lambda_max(
    name: str,
    prior: Array,
    posterior: Array,
    ax: Axes | None = None,
    *,
    path: str | PathLike[str] | None = None,
) -> Axes:
    """Plot the prior and the posterior density of the logarithm of a largest eigenvalue.

    The densities are estimated from draws with a Gaussian kernel. Draws that are all equal, such as
    the single one of a point mass, are shown as a vertical line.

    Args:
        name: The matrix.
        prior: Draws of the largest eigenvalue under the prior, `(R,)`.
        posterior: Draws under the posterior, `(S,)`.
        ax: The axes to draw on; the default is a new figure.
        path: The file that the figure is saved in, if given.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if ax is None:
        ax = new_axes(5.2, 3.6)
    _draw_density(ax, np.sort(np.log(prior)), GREY, "prior")
    _draw_density(ax, np.sort(np.log(posterior)), BLUE, "posterior")
    ax.set_xscale("log")
    tick(ax.xaxis)
    ax.set_ylim(bottom=0)
    ax.set_title(shortened(name))
    ax.set_xlabel(r"largest eigenvalue $\lambda_1$")
    ax.set_ylabel(r"density of $\ln\,\lambda_1$")
    legend(ax, columns=2)
    save(ax, path)
    return ax


def _draw_spectra(ax: Axes, spectra: list[PlottedSpectrum]) -> None:
    """Draw spectra over each other, the first in front, with the law of the first.

    Args:
        ax: The axes to draw on.
        spectra: The spectra, with eigenvalues that are not all equal.
    """
    seen, tops, bins = [], [], np.ones(2)
    for place, spectrum in reversed(list(enumerate(spectra))):
        found = _bins(spectrum)
        assert found is not None
        bins = found
        bars, mean, top = _draw_bars(ax, spectrum.draws, bins, _COLORS[place], filled=place == 1)
        _draw_tail(ax, spectrum, _COLORS[place], bars)
        seen.append(mean[mean > 0])
        tops.append(top)
    ax.set_xscale("log")
    ax.set_yscale("log")
    top = max(tops)
    room = 2.0 if spectra[0].largest is None else 6.0
    ax.set_ylim(float(np.concatenate(seen).min()) / 3, top * room)
    if spectra[0].law is not None:
        label, density = spectra[0].law
        x = np.geomspace(bins[0], bins[-1], 200)
        ax.plot(x, density(x), color=INK, ls="--", lw=1.3, label=_filled(f"prior: {label}"))
    if spectra[0].largest is not None:
        label, low, high = spectra[0].largest
        words = _filled(rf"prior of $\lambda_1$, 95 %: {label}")
        ax.plot([low, high], [3 * top, 3 * top], color=INK, lw=3, label=words)
    for axis in (ax.xaxis, ax.yaxis):
        tick(axis)


def _bins(spectrum: PlottedSpectrum) -> Array | None:
    """Return the edges of the bars, one of which is where the tail begins.

    The result is `None` if there are no bars.
    """
    n_tail = spectrum.row.n_tail
    start = None if n_tail is None else float(spectrum.typical[n_tail - 1])
    return log_bins(spectrum.positive, spectrum.row.K, through=start)


def _draw_bars(
    ax: Axes, draws: Array, bins: Array, color: str, *, filled: bool
) -> tuple[Any, Array, float]:
    """Draw the mean histogram of the draws, and its 95 % band if there are several.

    Returns:
        The bars, their heights `(B,)`, and the largest height that is drawn.
    """
    heights = np.stack([bin_density(row, bins) for row in draws])
    mean = heights.mean(0)
    if filled or len(draws) == 1:
        bars = ax.stairs(mean, bins, fill=True, color=color, alpha=0.45)
    else:
        bars = ax.stairs(mean, bins, color=color, lw=1.6, baseline=None)
    if len(draws) > 1:
        low, high = np.quantile(heights, [0.025, 0.975], axis=0)
        least = np.minimum(0.2 / (draws.shape[1] * np.diff(bins)), mean)
        positive = draws[draws >= bins[0]]
        x = np.clip(np.sqrt(bins[:-1] * bins[1:]), positive.min(), positive.max())
        seen = high > 0
        ax.fill_between(
            x[seen], np.maximum(low, least)[seen], high[seen], color=color, alpha=0.2, lw=0
        )
        return bars, mean, float(high.max())
    return bars, mean, float(mean.max())


def _draw_tail(ax: Axes, spectrum: PlottedSpectrum, color: str, bars: Any) -> None:
    """Draw the fitted tail, and label the bars with its exponent or why there is none."""
    row, alpha, n_tail = spectrum.row, spectrum.row.alpha, spectrum.row.n_tail
    if alpha is None or n_tail is None:
        bars.set_label(_filled(spectrum.words + row.problem))
        return
    share, start = n_tail / row.K, spectrum.typical[n_tail - 1]
    x = np.geomspace(start, spectrum.typical[0], 50)

    def density(exponent: float) -> Array:
        return np.asarray(share * (exponent - 1) / start * (x / start) ** -exponent)

    ends = f"[{alpha.low:.2f}, {alpha.high:.2f}]"
    bars.set_label(rf"{spectrum.words}$\alpha$ = {alpha.mean:.2f} {ends}")
    ax.plot(x, density(alpha.mean), color=color)
    ax.fill_between(x, density(alpha.low), density(alpha.high), color=color, alpha=0.35, lw=0)


def _filled(text: str) -> str:
    """Return a text of a legend in lines of limited length."""
    return textwrap.fill(text, _LEGEND)


def _rows(widths: list[float]) -> list[list[float]]:
    """Arrange panels in rows, none of which is wider than a figure may be."""
    rows: list[list[float]] = []
    for width in widths:
        if not rows or sum(rows[-1]) + width > WIDEST:
            rows.append([])
        rows[-1].append(width)
    return rows


def _write_few(ax: Axes, panel: Sequence[PlottedSpectrum]) -> None:
    """Say that a matrix has too few eigenvalues, and how large the largest is."""
    row = panel[0].row
    lines = [f"{row.K} eigenvalues:", "too few for an", "exponent", ""]
    for spectrum in panel:
        lines += [spectrum.words.rstrip(), rf"$\lambda_1$ = {spectrum.row.lambda_max.mean:.3g}"]
    ax.text(0.0, 0.95, "\n".join(lines), transform=ax.transAxes, va="top", fontsize=NOTE)
    ax.set_title(shortened(row.matrix, 18))
    ax.set_axis_off()


def _draw_density(ax: Axes, logs: Array, color: str, label: str) -> None:
    """Draw the density of logarithms, which are ascending."""
    if logs[-1] - logs[0] < 1e-12 * max(1.0, abs(logs[0])):
        ax.axvline(np.exp(logs[0]), color=color, lw=1.6, label=label)
        return
    low, high = np.quantile(logs, [0.001, 0.999])  # a heavy tail would squeeze the rest
    kernel = scipy.stats.gaussian_kde(logs)
    margin = 3 * float(kernel.covariance[0, 0]) ** 0.5
    x = np.linspace(low - margin, high + margin, 400)
    y = kernel(x)
    ax.plot(np.exp(x), y, color=color, lw=1.6, label=label)
    ax.fill_between(np.exp(x), y, color=color, alpha=0.25, lw=0)

"""Figures of posterior spectra, of their summaries, and of training.

They need matplotlib: `pip install "bayes-htr[plot]"`.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy

from bayes_htr._plotting import (
    BLUE,
    BLUE_BARS,
    BLUE_LINE,
    GREY,
    GREY_BARS,
    GREY_LINE,
    literal,
    log_bins,
    log_density,
    new_axes,
    pyplot,
    save,
    tick,
)
from bayes_htr.posterior.summary import SpectraSummary, SummaryRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = ((BLUE_BARS, BLUE_LINE), (GREY_BARS, GREY_LINE))
"""The colours of bars and tail: of a spectrum, and of the one behind it."""

_LEGEND = 40
"""The number of characters in a line of a legend."""

_WIDE, _NARROW = 3.4, 1.5
"""The widths in inches of a panel with a spectrum, and of one that only has words."""


@dataclass(frozen=True)
class PlottedSpectrum:
    """The spectrum of one matrix as a figure shows it.

    Attributes:
        draws: Draws of the eigenvalues: `(S, K)`, descending.
        typical: The typical eigenvalue at each rank: `(K,)`, descending.
        row: The summary of the matrix.
        label: What the legend calls the spectrum; may be empty.
        law: The label of the law that the prior states, and its density at eigenvalues `(B,)`;
            `None` if the prior states no law.
    """

    draws: np.ndarray
    typical: np.ndarray
    row: SummaryRow
    label: str = ""
    law: tuple[str, Callable[[np.ndarray], np.ndarray]] | None = None

    @property
    def words(self) -> str:
        """What stands in the legend before what is said about the spectrum."""
        return f"{self.label}: " if self.label else ""

    @property
    def positive(self) -> np.ndarray:
        """All eigenvalues that a logarithmic axis can show.

        Eigenvalues of a rank-deficient matrix that are zero up to rounding are left out.
        """
        values = self.draws.reshape(-1)
        return values[values > 1e-12 * max(values.max(), 1e-300)]


def plot_spectrum(
    spectrum: PlottedSpectrum,
    ax: Axes | None = None,
    *,
    behind: PlottedSpectrum | None = None,
    path: str | PathLike[str] | None = None,
) -> Axes:
    """Plot a spectrum on log-log axes: the density of `ln lambda`, with the fitted tail.

    A power law of exponent alpha is a straight line of slope `1 - alpha`, so a flatter line means a
    heavier tail. The line begins where the tail does. It has the share of the eigenvalues that the
    tail has, so it lies on the bars of the eigenvalues that it was fitted to. The band around it is
    the 95 % credible interval of alpha.

    If there are several draws, the bars are the mean over the draws, with the 95 % credible band
    of their heights. If no exponent can be read, the legend says why. A law that the prior states
    is shown as well, at the hyperparameters of the posterior and before any strength.

    Args:
        spectrum: The spectrum.
        ax: The axes to draw on; the default is a new figure.
        behind: Another spectrum of the same matrix, shown behind in grey.
        path: The file that the figure is saved in, if given.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if ax is None:
        ax = new_axes(4.8, 3.8)
    spectra = [spectrum] if behind is None else [spectrum, behind]
    positive = [each.positive for each in spectra]
    if all(values.size and values.max() > values.min() for values in positive):
        edges = log_bins(np.concatenate(positive), spectrum.row.K)
        _draw_spectra(ax, spectra, float(np.log(edges[1] / edges[0])))
    else:
        for each, (color, _) in zip(spectra, _COLORS, strict=False):
            ax.axvline(each.row.lambda_max.mean, color=color, label=each.words + each.row.problem)
    ax.set_title(literal(spectrum.row.matrix), fontsize=10)
    ax.set_xlabel(r"eigenvalue $\lambda$ of $W^\top W$")
    ax.set_ylabel(r"density of $\ln\lambda$")
    handles, texts = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], texts[::-1], fontsize=8, frameon=False, loc="upper right")
    save(ax, path)
    return ax


def plot_spectra(panels: Sequence[Sequence[PlottedSpectrum]]) -> Figure:
    """Plot a panel for each matrix, as `plot_spectrum` does.

    A matrix that has too few eigenvalues for an exponent gets a narrow panel, which says so and
    states its largest eigenvalue.

    Args:
        panels: For each matrix its spectrum, and after it the one behind it, if there is one.

    Raises:
        ImportError: matplotlib is not installed.
    """
    rows = _rows([_NARROW if panel[0].row.few else _WIDE for panel in panels])
    width = max((sum(widths) for widths in rows), default=_WIDE)
    size = (width, 3.3 * max(1, len(rows)))
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
    return figure


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
        ax = new_axes(5.2, 1.2 + 0.32 * len(rows))
    for place, row in enumerate(rows):
        if row.alpha is None:
            ax.annotate(
                row.problem,
                (0.02, place),
                xycoords=("axes fraction", "data"),
                va="center",
                color=GREY,
                fontsize=8,
            )
        else:
            ax.plot([row.alpha.low, row.alpha.high], [place, place], color=BLUE, lw=1.6)
            ax.plot(row.alpha.mean, place, "o", color=BLUE, ms=5)
    ax.set_yticks(range(len(rows)), [literal(row.matrix) for row in rows], fontsize=8)
    ax.set_ylim(len(rows) - 0.5, -0.5)  # the first layer is at the top
    ax.set_xlabel(rf"$\alpha$ of the tail: mean and {100 * summary.level:g} % interval")
    ax.grid(axis="x", alpha=0.3)
    save(ax, path)
    return ax


def plot_lambda_max(
    name: str,
    prior: np.ndarray,
    posterior: np.ndarray,
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
        ax = new_axes(4.8, 3.4)
    _draw_density(ax, np.sort(np.log(prior)), GREY, "prior")
    _draw_density(ax, np.sort(np.log(posterior)), BLUE, "posterior")
    ax.set_xscale("log")
    tick(ax.xaxis)
    ax.set_ylim(bottom=0)
    ax.set_title(literal(name), fontsize=10)
    ax.set_xlabel(r"largest eigenvalue $\lambda_1$")
    ax.set_ylabel(r"density of $\log\,\lambda_1$")
    ax.legend(fontsize=8, frameon=False)
    save(ax, path)
    return ax


def plot_history(history: Mapping[str, list[dict[str, float]]]) -> Figure:
    """Plot loss and accuracy over epochs.

    Args:
        history: The metrics of each epoch, by the name of the run.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for name, metrics in history.items():
        rows = [row for row in metrics if "epoch" in row]  # NUTS has no epochs
        epochs = [row["epoch"] for row in rows]
        left.plot(epochs, [row["train_nll"] for row in rows], label=name)
        right.plot(epochs, [row["train_accuracy"] for row in rows], label=name)
        if rows and "val_nll" in rows[0]:
            color = left.lines[-1].get_color()
            left.plot(epochs, [row["val_nll"] for row in rows], "--", color=color)
            right.plot(epochs, [row["val_accuracy"] for row in rows], "--", color=color)
    left.set(xlabel="epoch", ylabel="cross-entropy (nats)", yscale="log")
    right.set(xlabel="epoch", ylabel="accuracy")
    left.legend(fontsize=8, frameon=False, title="training (dashed: validation)", title_fontsize=8)
    return figure


def plot_trace(
    history: Sequence[Mapping[str, float]],
    quantities: str | Sequence[str],
    ax: Axes | None = None,
    *,
    path: str | PathLike[str] | None = None,
) -> Axes:
    """Plot quantities of a history over epochs.

    Args:
        history: The metrics of each epoch, or `SpectrumHistory.rows()`.
        quantities: The name of a quantity, or several names.
        ax: The axes to draw on; the default is a new figure.
        path: The file that the figure is saved in, if given.

    Raises:
        ValueError: The history is empty, or does not have a quantity.
        ImportError: matplotlib is not installed.
    """
    names = [quantities] if isinstance(quantities, str) else list(quantities)
    known = list(dict.fromkeys(key for row in history for key in row))
    for name in names:
        if name not in known:
            raise ValueError(
                f"no {name!r} in the history; it has {', '.join(known) or 'nothing'} (spectra "
                "over steps are recorded by htr.SpectrumHistory)"
            )
    if ax is None:
        ax = new_axes(4.8, 3.4)
    for name in names:
        points = [
            (row.get("epoch", i + 1), row[name]) for i, row in enumerate(history) if name in row
        ]
        ax.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else "", label=name)
    ax.set_xlabel("epoch")
    if len(names) == 1:
        ax.set_ylabel(names[0])
    else:
        ax.legend(fontsize=8, frameon=False)
    save(ax, path)
    return ax


def _draw_spectra(ax: Axes, spectra: list[PlottedSpectrum], width: float) -> None:
    """Draw spectra over each other, the first in front, with the law of the first.

    Args:
        ax: The axes to draw on.
        spectra: The spectra, with eigenvalues that are not all equal.
        width: The width of a bar in `ln lambda`.
    """
    highest = 0.0
    for place, spectrum in reversed(list(enumerate(spectra))):
        color, dark = _COLORS[place]
        bins = _bins(spectrum, width)
        bars, mean = _draw_bars(ax, spectrum.draws, bins, color, filled=place == 1)
        _draw_tail(ax, spectrum, dark, bars)
        highest = max(highest, float(mean.max()))
    ax.set_xscale("log")
    ax.set_yscale("log")
    if spectra[0].law is not None:
        label, density = spectra[0].law
        x = np.geomspace(bins[0], bins[-1], 200)
        ax.plot(x, x * density(x), color="black", ls="--", lw=1.2, label=f"prior: {label}")
    bottom = 0.2 / (spectra[0].row.K * width)  # a fifth of one eigenvalue in a bar
    ax.set_ylim(bottom, highest * (highest / bottom) ** 0.5)  # leaves room for the legend
    for axis in (ax.xaxis, ax.yaxis):
        tick(axis)


def _bins(spectrum: PlottedSpectrum, width: float) -> np.ndarray:
    """The edges of bins of equal width in `ln lambda`; one edge is where the tail begins."""
    values, n_tail = spectrum.positive, spectrum.row.n_tail
    start = values.min() if n_tail is None else spectrum.typical[n_tail - 1]
    first = math.floor(math.log(values.min() / start) / width - 1e-9)
    last = math.floor(math.log(values.max() / start) / width + 1e-9) + 1
    return np.asarray(start * np.exp(width * np.arange(first, last + 1)))


def _draw_bars(
    ax: Axes, draws: np.ndarray, bins: np.ndarray, color: str, *, filled: bool
) -> tuple[Any, np.ndarray]:
    """Draw the mean histogram of the draws, and its 95 % band if there are several."""
    heights = np.stack([log_density(row, bins) for row in draws])
    mean = heights.mean(0)
    if filled or len(draws) == 1:
        bars = ax.stairs(mean, bins, fill=True, color=color, alpha=0.75)
    else:
        bars = ax.stairs(mean, bins, color=color, lw=1.8, baseline=None)
    if len(draws) > 1:
        low, high = np.quantile(heights, [0.025, 0.975], axis=0)
        tiny = mean[mean > 0].min() * 1e-3  # a logarithmic axis has no zero
        ax.stairs(high, bins, baseline=np.maximum(low, tiny), fill=True, color=color, alpha=0.25)
    return bars, mean


def _draw_tail(ax: Axes, spectrum: PlottedSpectrum, color: str, bars: Any) -> None:
    """Draw the fitted tail, and label the bars with its exponent or why there is none."""
    row, alpha, n_tail = spectrum.row, spectrum.row.alpha, spectrum.row.n_tail
    if alpha is None or n_tail is None:
        bars.set_label(textwrap.fill(spectrum.words + row.problem, _LEGEND))
        return
    share, start = n_tail / row.K, spectrum.typical[n_tail - 1]
    x = np.geomspace(start, spectrum.typical[0], 50)

    def density(exponent: float) -> np.ndarray:
        return share * (exponent - 1) * (x / start) ** (1 - exponent)

    ends = f"[{alpha.low:.2f}, {alpha.high:.2f}]"
    bars.set_label(rf"{spectrum.words}$\alpha$ = {alpha.mean:.2f} {ends}")
    ax.plot(x, density(alpha.mean), color=color, lw=2)
    ax.fill_between(x, density(alpha.low), density(alpha.high), color=color, alpha=0.25, lw=0)


def _rows(widths: list[float]) -> list[list[float]]:
    """Arrange panels in rows, none of which is wider than four wide panels."""
    rows: list[list[float]] = []
    for width in widths:
        if not rows or sum(rows[-1]) + width > 4 * _WIDE:
            rows.append([])
        rows[-1].append(width)
    return rows


def _write_few(ax: Axes, panel: Sequence[PlottedSpectrum]) -> None:
    """Say that a matrix has too few eigenvalues, and how large the largest is."""
    row = panel[0].row
    lines = [f"{row.K} eigenvalues:", "too few for an", "exponent", ""]
    for spectrum in panel:
        lines += [spectrum.words.rstrip(), rf"$\lambda_1$ = {spectrum.row.lambda_max.mean:.3g}"]
    ax.text(0.0, 0.95, "\n".join(lines), transform=ax.transAxes, va="top", fontsize=8)
    ax.set_title(literal(row.matrix), fontsize=10)
    ax.set_axis_off()


def _draw_density(ax: Axes, logs: np.ndarray, color: str, label: str) -> None:
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

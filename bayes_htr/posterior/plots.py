"""Pictures of spectra: the empirical spectral density on log-log axes with tail and law.

Needs matplotlib: `pip install "bayes-htr[plot]"`.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bayes_htr._plotting import literal, pyplot, tick
from bayes_htr.errors import PriorError
from bayes_htr.posterior.spectrum_draws import SpectrumDraws, SummaryRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PALETTE = (("#3b6fb6", "#1d3f73"), ("#b9b9b9", "#5d5d5d"))
"""Of the spectrum and of the one beside it: its bars, and its tail."""

_LEGEND = 40
"""Characters of a line in a legend."""

_WIDE, _NARROW = 3.4, 1.5
"""Widths, in inches, of a panel with a spectrum and of one without."""


def plot_spectrum(
    spectra: SpectrumDraws,
    name: str,
    ax: Axes | None = None,
    *,
    label: str = "",
    beside: tuple[str, SpectrumDraws] | None = None,
    path: str | PathLike[str] | None = None,
) -> Axes:
    """A matrix's spectrum on log-log axes: the density of `ln lambda`, with the fitted tail.

    A power law of exponent alpha is a straight line of slope `1 - alpha`: the flatter, the heavier
    the tail. The line begins where the tail does, and has its share of the eigenvalues, so that it
    lies on the bars of those that it is fitted to; the band about it is the 95 % credible interval
    of alpha. Of several draws the bars are the mean, with the 95 % credible band of their heights.
    Where no exponent can be read the legend says why. Where the prior states a law it is drawn too,
    at the hyperparameters of the posterior, before any strength.

    Args:
        spectra: The draws.
        name: The matrix.
        ax: Where to draw; a new figure by default.
        label: What the legend calls the spectrum.
        beside: If given, what the legend calls other spectra, and these: the matrix's is drawn
            behind, in grey.
        path: If given, where the figure is saved.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if ax is None:
        ax = pyplot().subplots(figsize=(4.8, 3.8), layout="constrained")[1]
    shown = [(label, spectra)] if beside is None else [(label, spectra), beside]
    positive = [_positive(each[name]) for _, each in shown]
    if all(values.size and values.max() > values.min() for values in positive):
        together = np.concatenate(positive)
        edges = log_bins(together, spectra[name].shape[1])
        width, highest = float(np.log(edges[1] / edges[0])), 0.0
        for place, (words, each) in reversed(list(enumerate(shown))):
            color, dark = _PALETTE[place]
            draws = each[name].double().numpy()
            row = each.row(name)
            bins = _bins(each, row, width)
            bars, mean = _draw_bars(ax, draws, bins, color, behind=place == 1)
            _draw_tail(ax, each, row, words, dark, bars)
            highest = max(highest, float(mean.max()))
        ax.set_xscale("log")
        ax.set_yscale("log")
        _draw_law(ax, spectra, name, bins)
        bottom = 0.2 / (spectra[name].shape[1] * width)  # a fifth of one eigenvalue in a bar
        ax.set_ylim(bottom, highest * (highest / bottom) ** 0.5)  # room for the legend
        for axis in (ax.xaxis, ax.yaxis):
            tick(axis)
    else:
        for (words, each), (color, _) in zip(shown, _PALETTE, strict=False):
            text = f"{words}: {each.tail(name).problem}" if words else each.tail(name).problem
            ax.axvline(float(each.lambda_max(name).mean()), color=color, label=text)
    ax.set_title(literal(name), fontsize=10)
    ax.set_xlabel(r"eigenvalue $\lambda$ of $W^\top W$")
    ax.set_ylabel(r"density of $\ln\lambda$")
    handles, texts = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], texts[::-1], fontsize=8, frameon=False, loc="upper right")
    if path is not None:
        ax.figure.savefig(path, dpi=150)  # type: ignore[union-attr]
    return ax


def plot_spectra(
    spectra: SpectrumDraws,
    *,
    label: str = "",
    beside: tuple[str, SpectrumDraws] | None = None,
) -> Figure:
    """A panel for each matrix, as `plot_spectrum`.

    A matrix with too few eigenvalues for an exponent has a narrow panel that says so, and that
    names its largest eigenvalue.
    """
    plt = pyplot()
    told = {name: not spectra.tail(name).few for name in spectra}
    rows = _rows([_WIDE if told[name] else _NARROW for name in spectra])
    width = max((sum(widths) for widths in rows), default=_WIDE)
    figure = plt.figure(figsize=(width, 3.3 * max(1, len(rows))), layout="constrained")
    names = iter(spectra)
    for widths, part in zip(
        rows, np.atleast_1d(figure.subfigures(max(1, len(rows)))), strict=False
    ):
        ratios = [*widths, width - sum(widths)] if sum(widths) < width - 1e-9 else widths
        axes = part.subplots(1, len(ratios), width_ratios=ratios, squeeze=False)[0]
        for ax in axes[len(widths) :]:
            ax.set_axis_off()
        for ax, name in zip(axes[: len(widths)], names, strict=False):
            if told[name]:
                plot_spectrum(spectra, name, ax, label=label, beside=beside)
            else:
                _say_few(ax, spectra, name, label, beside)
    return figure


def _rows(widths: list[float]) -> list[list[float]]:
    """Panels by row, none wider than four of the wide ones."""
    rows: list[list[float]] = []
    for width in widths:
        if not rows or sum(rows[-1]) + width > 4 * _WIDE:
            rows.append([])
        rows[-1].append(width)
    return rows


def _say_few(
    ax: Axes,
    spectra: SpectrumDraws,
    name: str,
    label: str,
    beside: tuple[str, SpectrumDraws] | None,
) -> None:
    """What there is to say of a matrix with few eigenvalues."""
    lines = [f"{spectra[name].shape[1]} eigenvalues:", "too few for an", "exponent", ""]
    for words, each in ((label, spectra),) if beside is None else ((label, spectra), beside):
        lines += [f"{words}:", rf"$\lambda_1$ = {each.lambda_max(name).mean():.3g}"]
    ax.text(0.0, 0.95, "\n".join(lines), transform=ax.transAxes, va="top", fontsize=8)
    ax.set_title(literal(name), fontsize=10)
    ax.set_axis_off()


def plot_history(history: Mapping[str, list[dict[str, float]]]) -> Figure:
    """Loss and accuracy by epoch of one or several runs, by name."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for name, all_rows in history.items():
        rows = [row for row in all_rows if "epoch" in row]  # of NUTS, none
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
    """Quantities of a history over epochs.

    Args:
        history: Metrics by epoch, or `SpectrumHistory.rows()`.
        quantities: One or several of their names.
        ax: Where to draw; a new figure by default.
        path: If given, where the figure is saved.

    Raises:
        ValueError: The history is empty, or lacks a quantity.
        ImportError: matplotlib is not installed.
    """
    names = [quantities] if isinstance(quantities, str) else list(quantities)
    having = list(dict.fromkeys(key for row in history for key in row))
    for name in names:
        if name not in having:
            raise ValueError(
                f"no {name!r} in the history; it has {', '.join(having) or 'nothing'} (spectra "
                "over steps are recorded by htr.SpectrumHistory)"
            )
    if ax is None:
        ax = pyplot().subplots(figsize=(4.8, 3.4), layout="constrained")[1]
    for name in names:
        rows = [
            (row.get("epoch", i + 1), row[name]) for i, row in enumerate(history) if name in row
        ]
        ax.plot(*zip(*rows, strict=True), marker="." if len(rows) < 40 else "", label=name)
    ax.set_xlabel("epoch")
    if len(names) == 1:
        ax.set_ylabel(names[0])
    else:
        ax.legend(fontsize=8, frameon=False)
    if path is not None:
        ax.figure.savefig(path, dpi=150)  # type: ignore[union-attr]
    return ax


def _draw_bars(
    ax: Axes, draws: np.ndarray, bins: np.ndarray, color: str, *, behind: bool
) -> tuple[Any, np.ndarray]:
    """The histogram of the draws: their mean, and its 95 % band if there are several."""
    each = np.stack([heights(row, bins) for row in draws])
    mean = each.mean(0)
    if behind or len(draws) == 1:
        bars = ax.stairs(mean, bins, fill=True, color=color, alpha=0.75)
    else:
        bars = ax.stairs(mean, bins, color=color, lw=1.8, baseline=None)
    if len(draws) > 1:
        low, high = np.quantile(each, [0.025, 0.975], axis=0)
        tiny = mean[mean > 0].min() * 1e-3  # a log axis has no zero
        ax.stairs(high, bins, baseline=np.maximum(low, tiny), fill=True, color=color, alpha=0.25)
    return bars, mean


def heights(row: np.ndarray, bins: Sequence[float] | np.ndarray) -> np.ndarray:
    """The density of `ln lambda` in each bin; values outside count in the whole."""
    return np.histogram(row, bins)[0] / (len(row) * np.diff(np.log(bins)))


def _draw_law(ax: Axes, spectra: SpectrumDraws, name: str, bins: np.ndarray) -> None:
    try:
        law = spectra.laws.law(name)
        values = law.hyperparameters(spectra[name], spectra.hyperparameters)
    except PriorError:  # the prior states none
        return
    x = np.geomspace(bins[0], bins[-1], 200)
    density = x * law.density(torch.as_tensor(x), values).numpy()
    ax.plot(x, density, color="black", ls="--", lw=1.2, label=f"prior: {law.label}")


def _draw_tail(
    ax: Axes, spectra: SpectrumDraws, row: SummaryRow, label: str, color: str, bars: Any
) -> None:
    """The fitted tail, and in the legend, beside the bars, its exponent or why there is none."""
    words = f"{label}: " if label else ""
    if row.alpha is None or row.n_tail is None:
        bars.set_label(textwrap.fill(f"{words}{row.problem}", _LEGEND))
        return
    alpha, typical = row.alpha, spectra.typical(row.matrix)
    share, start = row.n_tail / row.K, typical[row.n_tail - 1]
    x = np.geomspace(start, typical[0], 50)

    def density(exponent: float) -> np.ndarray:
        return share * (exponent - 1) * (x / start) ** (1 - exponent)

    ends = f"[{alpha.low:.2f}, {alpha.high:.2f}]"
    bars.set_label(rf"{words}$\alpha$ = {alpha.mean:.2f} {ends}")
    ax.plot(x, density(alpha.mean), color=color, lw=2)
    ax.fill_between(x, density(alpha.low), density(alpha.high), color=color, alpha=0.25, lw=0)


def _bins(spectra: SpectrumDraws, row: SummaryRow, width: float) -> np.ndarray:
    """Edges `width` apart in the logarithm, one of them where the tail begins."""
    values = _positive(spectra[row.matrix])
    start = values.min() if row.n_tail is None else spectra.typical(row.matrix)[row.n_tail - 1]
    first = math.floor(math.log(values.min() / start) / width - 1e-9)
    last = math.floor(math.log(values.max() / start) / width + 1e-9) + 1
    return np.asarray(start * np.exp(width * np.arange(first, last + 1)))


def _positive(draws: Any) -> np.ndarray:
    values: np.ndarray = draws.double().numpy().reshape(-1)
    # Eigenvalues of a rank-deficient matrix that are zero but for rounding have no place on a log
    # axis.
    return values[values > 1e-12 * max(values.max(), 1e-300)]


def log_bins(values: np.ndarray, count: int) -> np.ndarray:
    """Edges of bins, even in the logarithm, for positive values of spectra of `count`."""
    low, high = np.quantile(values, 0.002), values.max()
    return np.geomspace(min(low, high / 1.001), high * 1.0001, max(8, min(40, int(2 * count**0.5))))

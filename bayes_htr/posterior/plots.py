"""Pictures of spectra: the empirical spectral density on log-log axes with tail and law.

Needs matplotlib: `pip install "bayes-htr[plot]"`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bayes_htr.drawing import pyplot, tick
from bayes_htr.errors import PriorError, SpectrumError
from bayes_htr.spectra import tail_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bayes_htr.posterior.spectra import PosteriorSpectra

TIES = 1e3
"""An exponent above which the tail is one value to the eye, and no power law."""

_FITTED, _OTHER, _TAIL = "#1f5fa8", "#9a9a9a", "#c8401e"


def plot_spectrum(
    spectra: PosteriorSpectra,
    name: str,
    ax: Axes | None = None,
    *,
    before: PosteriorSpectra | None = None,
    path: str | PathLike[str] | None = None,
    fraction: float = 0.5,
) -> Axes:
    """A matrix's ESD as a histogram in log bins, with the power law fitted to its upper tail.

    The band about the line is the 95 % credible interval of alpha. Of several draws the histogram
    is the mean, with the 95 % credible band of its heights. Where the prior states a law it is
    drawn too, at the hyperparameters of the posterior, before any strength.

    Args:
        spectra: The draws.
        name: The matrix.
        ax: Where to draw; a new figure by default.
        before: If given, the matrix's spectrum before training, as an outline.
        path: If given, where the figure is saved.
        fraction: The part of the spectrum that is fitted.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if ax is None:
        ax = pyplot().subplots(figsize=(4.8, 3.8), layout="constrained")[1]
    values = _positive(spectra[name])
    everything = [values] if before is None else [values, _positive(before[name])]
    together = np.concatenate(everything)
    if together.size and together.max() > together.min():
        bins = list(log_bins(together, spectra[name].shape[1]))
        if before is not None:
            ax.hist(
                everything[1],
                bins=bins,
                density=True,
                histtype="step",
                color=_OTHER,
                label="before training",
            )
        _draw_heights(ax, spectra[name].double().numpy(), bins)
        ax.set_xscale("log")
        ax.set_yscale("log")
        bottom, top = ax.get_ylim()
        _draw_tail(ax, spectra, name, fraction)
        _draw_law(ax, spectra, name, bins)
        ax.set_ylim(bottom / 1.5, top * (top / bottom) ** 0.35)  # room for the legend
        for axis in (ax.xaxis, ax.yaxis):
            tick(axis)
    else:
        ax.axvline(float(together.max()) if together.size else 0.0, color=_FITTED, label="trained")
    ax.set_title(name, fontsize=10)
    ax.set_xlabel(r"eigenvalue $\lambda$ of $W^\top W$")
    ax.set_ylabel("density")
    ax.legend(fontsize=7, frameon=False, loc="upper right")
    if path is not None:
        ax.figure.savefig(path, dpi=150)  # type: ignore[union-attr]
    return ax


def plot_spectra(spectra: PosteriorSpectra, *, before: PosteriorSpectra | None = None) -> Figure:
    """A panel for each matrix, as `plot_spectrum`."""
    plt = pyplot()
    columns = min(4, max(1, len(spectra)))
    rows = max(1, math.ceil(len(spectra) / columns))
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.2 * columns, 3.4 * rows), squeeze=False, layout="constrained"
    )
    for ax in axes.flat[len(spectra) :]:
        ax.set_axis_off()
    for ax, name in zip(axes.flat, spectra, strict=False):
        plot_spectrum(spectra, name, ax, before=before)
    return figure


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


def _draw_heights(ax: Axes, draws: np.ndarray, bins: list[float]) -> None:
    """The histogram of the draws: their mean, and its 95 % band if there are several."""
    each = np.stack([heights(row, bins) for row in draws])
    mean = each.mean(0)
    floor = mean[mean > 0].min() / 4  # a log axis has no zero
    if len(draws) == 1:
        ax.stairs(mean, bins, fill=True, color=_FITTED, alpha=0.55, label="trained")
    else:
        low, high = np.maximum(np.quantile(each, [0.025, 0.975], axis=0), floor)
        ax.stairs(mean, bins, color=_FITTED, lw=1.4, label=f"mean of {len(draws)} draws")
        ax.stairs(
            high, bins, baseline=low, fill=True, color=_FITTED, alpha=0.3, label="95 % of draws"
        )


def heights(row: np.ndarray, bins: Sequence[float] | np.ndarray) -> np.ndarray:
    """The density in each bin; values outside count in the whole."""
    return np.histogram(row, bins)[0] / (len(row) * np.diff(bins))


def _draw_law(ax: Axes, spectra: PosteriorSpectra, name: str, bins: list[float]) -> None:
    try:
        law = spectra.laws.law(name)
        values = law.hyperparameters(spectra[name], spectra.hyperparameters)
    except PriorError:  # the prior states none
        return
    x = np.geomspace(bins[0], bins[-1], 200)
    density = law.density(torch.as_tensor(x), values).numpy()
    ax.plot(x, density, color="black", ls="--", lw=1.2, label=f"prior: {law.label}")


def _draw_tail(ax: Axes, spectra: PosteriorSpectra, name: str, fraction: float) -> None:
    try:
        alpha = spectra.alpha(name, fraction=fraction)
    except SpectrumError:  # one eigenvalue, or ties: no tail to draw
        return
    if alpha.median > TIES:
        ax.plot([], [], " ", label="the upper half is one value: no tail")
        return
    lam = spectra[name].double().mean(0).numpy()
    k = tail_count(len(lam), fraction)
    start = lam[k]
    x = np.geomspace(start, lam[0], 50)
    share = k / len(lam)

    def density(exponent: float) -> np.ndarray:
        return share * (exponent - 1) / start * (x / start) ** -exponent

    ax.plot(
        x,
        density(alpha.median),
        color=_TAIL,
        lw=1.6,
        label=rf"$\alpha$ = {alpha.median:.2f} [{alpha.low:.2f}, {alpha.high:.2f}]",
    )
    ax.fill_between(x, density(alpha.low), density(alpha.high), color=_TAIL, alpha=0.2, lw=0)


def _positive(draws: Any) -> np.ndarray:
    values: np.ndarray = draws.double().numpy().reshape(-1)
    # Eigenvalues of a rank-deficient matrix that are zero but for rounding have no place on a log
    # axis.
    return values[values > 1e-12 * max(values.max(), 1e-300)]


def log_bins(values: np.ndarray, count: int) -> np.ndarray:
    """Edges of bins, even in the logarithm, for positive values of spectra of `count`."""
    low, high = np.quantile(values, 0.002), values.max()
    return np.geomspace(min(low, high / 1.001), high * 1.0001, max(8, min(40, int(2 * count**0.5))))

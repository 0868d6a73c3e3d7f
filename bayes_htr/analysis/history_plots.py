"""Pictures of spectra over the steps of training.

Needs matplotlib: `pip install "bayes-htr[plot]"`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes_htr._files import atomic_write
from bayes_htr._plotting import literal, log_bins, log_density, pyplot, tick
from bayes_htr.analysis.spectrum_records import SpectrumRecords
from bayes_htr.analysis.traces import QUANTITIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NOW, _FIRST, _TAIL = "#1f5fa8", "#9a9a9a", "#c8401e"
_LABELS = {
    "lambda_max": r"largest eigenvalue $\lambda_1$",
    "alpha": r"$\alpha$ of the tail",
    "stable_rank": "stable rank",
}
_APART = 10
"""So many lines can be told apart by colour, and have their bands drawn."""


def plot_steps(
    history: SpectrumRecords,
    name: str,
    *,
    panels: int = 8,
    path: str | PathLike[str] | None = None,
) -> Figure:
    """The ESD of a matrix on log-log axes, a panel for each of several records.

    All panels have the same axes and bins; the first record is an outline in each. Alpha, with
    its 95 % interval, is that of the tail whose start was searched.

    Args:
        history: The history.
        name: The matrix.
        panels: At most so many, evenly over the records, the first and the last among them.
        path: If given, where the figure is saved.

    Raises:
        KeyError: No such matrix.
        ValueError: `panels` is less than 1, or nothing is recorded.
        ImportError: matplotlib is not installed.
    """
    if isinstance(panels, bool) or panels < 1:
        raise ValueError(f"panels={panels!r} must be at least 1")
    lam = history[name]
    chosen = np.unique(np.linspace(len(lam) - 1, 0, min(panels, len(lam))).round().astype(int))
    columns = min(4, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    figure, axes = pyplot().subplots(
        rows,
        columns,
        figsize=(2.7 * columns + 0.4, 2.3 * rows + 0.5),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    drawing = _Esd(history, name)
    for ax in axes.flat[len(chosen) :]:
        ax.set_axis_off()
    for ax, row in zip(axes.flat, chosen, strict=False):
        drawing.draw(ax, int(row))
        ax.set_title(_when(history, int(row)), fontsize=9)
    figure.suptitle(literal(name), fontsize=11)
    figure.supxlabel(r"eigenvalue $\lambda$ of $W^\top W$", fontsize=10)
    figure.supylabel(r"density of $\ln\lambda$", fontsize=10)
    _save(figure, path)
    return figure


def plot_trace(
    history: SpectrumRecords,
    quantity: str,
    names: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    *,
    against: str = "step",
    level: float = 0.95,
    path: str | PathLike[str] | None = None,
) -> Axes:
    """A quantity of each matrix over the records, on a logarithmic axis of steps.

    Up to ten matrices have colours of their own, and bands with the credible interval of alpha;
    more are coloured by depth, from dark to light, and have no bands.

    Args:
        history: The history.
        quantity: `lambda_max`, `alpha` or `stable_rank`.
        names: The matrices; by default all.
        ax: Where to draw; a new figure by default.
        against: `step` or `epoch`.
        level: Of the interval of alpha.
        path: If given, where the figure is saved.

    Raises:
        KeyError: No such matrix.
        ValueError: Another quantity, or epochs that are not known.
        ImportError: matplotlib is not installed.
    """
    chosen = _chosen(history, names)
    x = _abscissa(history, against)
    if ax is None:
        ax = pyplot().subplots(figsize=(5.6, 3.6), layout="constrained")[1]
    colors = _colors(len(chosen))
    for name, color in zip(chosen, colors, strict=True):
        found = history.trace(name, quantity, level=level)
        ax.plot(x, found.values, color=color, lw=1.5, marker=".", ms=4, label=literal(name))
        if found.interval is not None and len(chosen) <= _APART:
            ax.fill_between(x, *found.interval.T, color=color, alpha=0.15, lw=0)
    if against == "step":
        ax.set_xscale("symlog", linthresh=1, linscale=0.3)
    ax.set_xlabel(against)
    band = f", {100 * level:g} % interval" if quantity == "alpha" and len(chosen) <= _APART else ""
    ax.set_ylabel(_LABELS[quantity] + band)
    ax.grid(alpha=0.25)
    if len(chosen) <= _APART:
        ax.legend(fontsize=8, frameon=False)
    _save(ax.figure, path)
    return ax


def plot_traces(
    history: SpectrumRecords,
    names: str | Sequence[str] | None = None,
    *,
    against: str = "step",
    path: str | PathLike[str] | None = None,
) -> Figure:
    """A panel for each quantity, as `plot_trace`.

    Raises:
        KeyError, ValueError, ImportError: As `plot_trace`.
    """
    figure, axes = pyplot().subplots(
        1, len(QUANTITIES), figsize=(4.1 * len(QUANTITIES), 3.4), layout="constrained"
    )
    for ax, quantity in zip(axes, QUANTITIES, strict=True):
        plot_trace(history, quantity, names, ax, against=against)
        if ax is not axes[0] and ax.legend_ is not None:
            ax.legend_.remove()
    _save(figure, path)
    return figure


def animate(
    history: SpectrumRecords,
    path: str | PathLike[str],
    names: str | Sequence[str] | None = None,
    *,
    frames_per_second: float = 5.0,
) -> None:
    """The ESD over the steps as a GIF: a frame for each record, the last one held for two seconds.

    Args:
        history: The history.
        path: Where it is written.
        names: The matrices, side by side; by default all.
        frames_per_second: How fast.

    Raises:
        KeyError: No such matrix.
        ValueError: Nothing is recorded, or `frames_per_second` is not positive.
        ImportError: matplotlib or Pillow is not installed.
    """
    if not 0 < frames_per_second <= 50:  # a GIF counts in hundredths of a second
        raise ValueError(f"frames_per_second={frames_per_second} must lie between 0 and 50")
    chosen = _chosen(history, names)
    plt = pyplot()
    from matplotlib.animation import PillowWriter

    columns = min(4, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(3.3 * columns, 2.8 * rows + 0.3),
        squeeze=False,
        layout="constrained",
    )
    for ax in axes.flat[len(chosen) :]:
        ax.set_axis_off()
    drawings = [_Esd(history, name) for name in chosen]
    hold = math.ceil(2 * frames_per_second)
    writer = PillowWriter(fps=frames_per_second)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "esd.gif"
        with writer.saving(figure, str(file), dpi=90):
            for row in [*range(len(history.steps)), *[len(history.steps) - 1] * hold]:
                for ax, drawing, name in zip(axes.flat, drawings, chosen, strict=False):
                    ax.clear()
                    drawing.draw(ax, row)
                    ax.set_title(literal(name), fontsize=10)
                    ax.set_xlabel(r"eigenvalue $\lambda$")
                figure.suptitle(_when(history, row), fontsize=11)
                writer.grab_frame()
        plt.close(figure)
        atomic_write(Path(path), lambda aside: aside.write_bytes(file.read_bytes()))


class _Esd:
    """The ESD of one matrix at any of its records, always on the same axes."""

    def __init__(self, history: SpectrumRecords, name: str) -> None:
        lam = history[name].double().numpy()
        self.lam = np.maximum(lam, 1e-12 * (lam.max() or 1.0))
        self.alpha = history.trace(name, "alpha")
        self.bins = log_bins(self.lam.reshape(-1), self.lam.shape[1])
        densities = np.stack([log_density(row, self.bins) for row in self.lam])
        self.densities = densities
        some = densities[densities > 0]
        self.low = float(some.min() / 2) if some.size else 0.1
        self.high = float(some.max() * 6) if some.size else 1.0

    def draw(self, ax: Axes, row: int) -> None:
        """Draw the record of this row, with the first as an outline."""
        ax.stairs(self.densities[row], self.bins, fill=True, color=_NOW, alpha=0.6)
        if row:
            ax.stairs(self.densities[0], self.bins, color=_FIRST, lw=1.2, baseline=None)
        interval = self.alpha.interval
        if interval is not None and np.isfinite(self.alpha.values[row]):
            low, high = interval[row]
            text = rf"$\alpha$ = {self.alpha.values[row]:.2f} [{low:.2f}, {high:.2f}]"
            ax.text(
                0.97,
                0.95,
                text,
                transform=ax.transAxes,
                ha="right",
                va="top",
                fontsize=8,
                color=_TAIL,
            )
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlim(self.bins[0], self.bins[-1])
        ax.set_ylim(self.low, self.high)
        for axis in (ax.xaxis, ax.yaxis):
            tick(axis)
        ax.tick_params(labelsize=8)


def _chosen(history: SpectrumRecords, names: str | Sequence[str] | None) -> list[str]:
    if not history.steps:
        raise ValueError("nothing is recorded; record a network first")
    chosen = list(history) if names is None else [names] if isinstance(names, str) else list(names)
    for name in chosen:
        history[name]  # raises for a name that is not there
    return chosen


def _abscissa(history: SpectrumRecords, against: str) -> list[float]:
    if against not in ("step", "epoch"):
        raise ValueError(f"against={against!r} must be 'step' or 'epoch'")
    if against == "step":
        return [float(step) for step in history.steps]
    epochs = [epoch for epoch in history.epochs if epoch is not None]
    if len(epochs) < len(history.steps):
        raise ValueError("the history has records without an epoch; take against='step'")
    return epochs


def _colors(count: int) -> Sequence[Any]:
    import matplotlib as mpl

    if count <= _APART:
        return [f"C{i}" for i in range(count)]
    return list(mpl.colormaps["viridis"](np.linspace(0, 0.9, count)))


def _when(history: SpectrumRecords, row: int) -> str:
    epoch = history.epochs[row]
    return f"step {history.steps[row]}" + ("" if epoch is None else f" (epoch {epoch:.3g})")


def _save(figure: Any, path: str | PathLike[str] | None) -> None:
    if path is not None:
        figure.savefig(path, dpi=150)

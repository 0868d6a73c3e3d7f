"""Spectra over the steps of training: traces of one number, and pictures.

The methods of `SpectrumHistory` describe both. Pictures need matplotlib
(`pip install "bayes-htr[plot]"`), and raise an `ImportError` without it.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from bayes_htr._checks import number, whole_number
from bayes_htr._files import atomic_write
from bayes_htr._plotting import (
    BLUE,
    GREY,
    NOTE,
    PALETTE,
    RED,
    WIDEST,
    bin_density,
    legend,
    literal,
    log_bins,
    new_axes,
    new_panels,
    note_left_out,
    pyplot,
    shortened,
    spread,
    styled,
    tick,
)
from bayes_htr.tails import fit_tail
from bayes_htr.tails.intervals import check_level

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


QUANTITIES = ("lambda_max", "alpha", "stable_rank")


@dataclass(frozen=True, eq=False)
class Trace:
    """A quantity of one matrix over steps.

    Attributes:
        steps: `(T,)`.
        values: `(T,)`; alpha is nan where the tail has no exponent.
        interval: `(T, 2)` the credible interval of alpha; `None` for other quantities.
    """

    steps: np.ndarray
    values: np.ndarray
    interval: np.ndarray | None = None


def trace(lam: Tensor, quantity: str, steps: Sequence[int], *, level: float = 0.95) -> Trace:
    """Compute a quantity of each of several spectra of one matrix.

    Args:
        lam: `(T, K)` spectra, each row descending.
        quantity: `lambda_max`, `alpha` or `stable_rank`; see `SpectrumHistory.trace`.
        steps: The `T` steps.
        level: Probability of the credible interval of alpha.

    Raises:
        ValueError: There is no such quantity, or `level` does not lie between 0 and 1.
    """
    if quantity not in QUANTITIES:
        raise ValueError(f"quantity={quantity!r} must be one of {', '.join(QUANTITIES)}")
    check_level(level)
    if quantity == "lambda_max":
        return Trace(np.asarray(steps), lam[:, 0].double().numpy())
    if quantity == "stable_rank":
        lam = lam.double()
        return Trace(np.asarray(steps), (lam.sum(1) / lam[:, 0]).numpy())
    alpha, interval = np.full(len(lam), np.nan), np.full((len(lam), 2), np.nan)
    for row, values in enumerate(lam):
        tail = fit_tail(values.numpy(), level=level)
        if tail.fit is not None and not tail.problem:
            alpha[row], interval[row] = tail.fit.alpha, tail.fit.interval
    return Trace(np.asarray(steps), alpha, interval)


_LABELS = {
    "lambda_max": r"largest eigenvalue $\lambda_1$",
    "alpha": r"$\alpha$ of the tail",
    "stable_rank": "stable rank",
}
_MOST_COLOURS = len(PALETTE)
"""The number of lines that colours can distinguish; more lines are drawn without bands."""
_MOST_PANELS = 9
"""The number of matrices in an animation."""


@styled
def plot_steps(
    name: str,
    lam: Tensor,
    alpha: Trace,
    titles: Sequence[str],
    panels: int,
) -> Figure:
    """Draw the ESD of a matrix, a panel for each of several records.

    Args:
        name: The matrix.
        lam: `(T, K)` its spectra.
        alpha: The trace of its exponent.
        titles: `T` titles of panels.
        panels: The largest number of panels.

    Raises:
        ValueError: `panels` is less than 1.
    """
    whole_number(panels, "panels", at_least=1)
    records = spread(len(lam), panels)
    figure, axes = _grid(len(records), 2.4, 0.8, share=True)
    draw = _esd_drawer(lam, alpha)
    for ax, record in zip(axes, records, strict=True):
        draw(ax, record)
        ax.set_title(titles[record], fontsize=NOTE)
    figure.suptitle(literal(name))
    note = "; outline: the first record" if len(records) > 1 else ""
    figure.supxlabel(rf"eigenvalue $\lambda$ of $W^\top W${note}")
    figure.supylabel("density")
    return figure


@styled
def plot_trace(
    x: Sequence[float],
    traces: Mapping[str, Trace],
    quantity: str,
    ax: Axes | None = None,
    *,
    against: str,
    level: float = 0.95,
) -> Axes:
    """Draw a quantity of each matrix over the records.

    Args:
        x: The `T` records in steps or epochs.
        traces: The trace of each matrix.
        quantity: `lambda_max`, `alpha` or `stable_rank`.
        ax: The axes to draw on; those of a new figure by default.
        against: `step` or `epoch`.
        level: Probability of the intervals.
    """
    if ax is None:
        ax = new_axes(6.2, 3.9)
    few = len(traces) <= _MOST_COLOURS
    band = ""
    ends = (0, len(traces) - 1)
    colors = _colors(len(traces))
    for place, ((name, trace), color) in enumerate(zip(traces.items(), colors, strict=True)):
        label = shortened(name) if few or place in ends else None  # a rainbow, named at its ends
        ax.plot(x, trace.values, color=color, lw=1.5, marker=".", ms=4, label=label)
        if trace.interval is not None and few:
            ax.fill_between(x, *trace.interval.T, color=color, alpha=0.15, lw=0)
            band = f", {100 * level:g} % interval"
    if against == "step":
        ax.set_xscale("symlog", linthresh=1, linscale=0.3)
    ax.set_xlabel(against)
    ax.set_ylabel(_LABELS[quantity] + band)
    ax.grid(True)
    title = "" if few else f"{len(traces)} matrices, from the first to the last"
    legend(ax, columns=2, title=title)
    return ax


@styled
def plot_traces(
    x: Sequence[float],
    traces: Mapping[str, Mapping[str, Trace]],
    *,
    against: str,
) -> Figure:
    """Draw a panel for each quantity, as `plot_trace` does.

    Args:
        x: The `T` records in steps or epochs.
        traces: By quantity, the trace of each matrix.
        against: `step` or `epoch`.
    """
    figure, axes = new_panels(len(traces), 1, 6.6, 2.3 * len(traces) + 0.7, sharex=True)
    for ax, quantity in zip(axes, traces, strict=True):
        plot_trace(x, traces[quantity], quantity, ax, against=against)
        if ax is not axes[-1]:
            ax.set_xlabel("")
            if ax.legend_ is not None:
                ax.legend_.remove()
    return figure


@styled
def animate(
    path: str | PathLike[str],
    spectra: Mapping[str, Tensor],
    alphas: Mapping[str, Trace],
    titles: Sequence[str],
    *,
    frames_per_second: float,
) -> None:
    """Write the ESDs over the steps as a GIF, whose last frame is shown for two seconds.

    Args:
        path: The file to write.
        spectra: `(T, K)` spectra by matrix.
        alphas: The trace of the exponent of each matrix.
        titles: `T` titles of frames.
        frames_per_second: The speed.

    Raises:
        ValueError: `frames_per_second` does not lie between 0 and 50.
        ImportError: matplotlib or Pillow is not installed.
    """
    if number(frames_per_second, "frames_per_second", above=0) > 50:  # a GIF has hundredths
        raise ValueError(f"frames_per_second={frames_per_second} must lie between 0 and 50")
    plt = pyplot()
    from matplotlib.animation import PillowWriter

    names = list(spectra)
    shown = [names[place] for place in spread(len(names), _MOST_PANELS)]
    figure, axes = _grid(len(shown), 2.6, 0.5, share=False)
    note_left_out(figure, [name for name in names if name not in shown])
    drawers = [_esd_drawer(spectra[name], alphas[name]) for name in shown]
    last = [len(titles) - 1] * math.ceil(2 * frames_per_second)
    writer = PillowWriter(fps=frames_per_second)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "esd.gif"
        with writer.saving(figure, str(file), dpi=90):
            for record in [*range(len(titles)), *last]:
                for ax, draw, name in zip(axes, drawers, shown, strict=True):
                    ax.clear()
                    draw(ax, record)
                    ax.set_title(shortened(name, 26), fontsize=NOTE)
                    ax.set_xlabel(r"eigenvalue $\lambda$", fontsize=NOTE)
                figure.suptitle(titles[record])
                writer.grab_frame()
        plt.close(figure)
        atomic_write(Path(path), lambda temporary: temporary.write_bytes(file.read_bytes()))


def _esd_drawer(spectra: Tensor, alpha: Trace) -> Callable[[Axes, int], None]:
    """Return a function that draws the ESD of one matrix at a record, always on the same axes.

    The first record is an outline in the others. A record that is not finite has no bars, and words
    in their place.
    """
    lam = spectra.double().numpy()
    finite = np.isfinite(lam)
    seen = lam[finite] if finite.any() else np.ones(1)
    floor = 1e-12 * (seen.max() or 1.0)
    lam = np.where(finite, np.maximum(lam, floor), np.nan)
    positive = np.maximum(seen, floor)
    bins = log_bins(positive, lam.shape[1])
    if bins is None:  # all are equal
        bins = positive.max() * np.geomspace(0.5, 2.0, 4)
    densities = np.stack([bin_density(row, bins) for row in lam])
    heights = densities[densities > 0]
    limits = (heights.min() / 2, heights.max() * 30) if heights.size else (0.1, 1.0)

    def draw(ax: Axes, record: int) -> None:
        ax.stairs(densities[record], bins, fill=True, color=BLUE, alpha=0.6)
        if record:
            ax.stairs(densities[0], bins, color=GREY, lw=1.2, baseline=None)
        if not finite[record].all():
            ax.text(0.5, 0.5, "not finite", transform=ax.transAxes, ha="center", color=RED)
        if alpha.interval is not None and np.isfinite(alpha.values[record]):
            low, high = alpha.interval[record]
            text = rf"$\alpha$ = {alpha.values[record]:.2f} [{low:.2f}, {high:.2f}]"
            place: dict[str, Any] = {"transform": ax.transAxes, "ha": "right", "va": "top"}
            ax.text(0.97, 0.97, text, fontsize=NOTE, color=RED, **place)
        ax.set_xscale("log")
        if heights.size:
            ax.set_yscale("log")
        ax.set_xlim(bins[0], bins[-1])
        ax.set_ylim(*limits)
        for axis in (ax.xaxis, ax.yaxis):
            tick(axis)

    return draw


def _grid(count: int, height: float, margin: float, *, share: bool) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` panels in rows of up to three.

    Args:
        count: The number of panels.
        height: The height of a panel in inches.
        margin: The height in inches of what is above and below all of them.
        share: Whether the panels have the same axes.
    """
    columns = min(3, count)
    rows = math.ceil(count / columns)
    width = WIDEST * max(columns, 2) / 3
    figure, axes = new_panels(
        rows, columns, width, height * rows + margin, sharex=share, sharey=share
    )
    for ax in axes[count:]:
        ax.set_axis_off()
    return figure, axes[:count]


def _colors(count: int) -> Sequence[Any]:
    import matplotlib as mpl

    if count <= _MOST_COLOURS:
        return PALETTE[:count]
    return list(mpl.colormaps["viridis"](np.linspace(0, 0.9, count)))

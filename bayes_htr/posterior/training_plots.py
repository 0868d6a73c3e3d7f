"""Figures of training: the metrics of a run, epoch by epoch.

They need matplotlib: `pip install "bayes-htr[plot]"`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from bayes_htr._plotting import WIDEST, legend, new_axes, new_panels, save, styled, tick

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled
def plot_history(history: Mapping[str, list[dict[str, float]]]) -> Figure:
    """Plot loss and accuracy over epochs.

    Args:
        history: The metrics of each epoch, by the name of the run.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, (left, right) = new_panels(1, 2, WIDEST, 3.6)
    validated = False
    for name, metrics in history.items():
        rows = [row for row in metrics if "epoch" in row]  # NUTS has no epochs
        epochs = [row["epoch"] for row in rows]
        (line,) = left.plot(epochs, [row["train_nll"] for row in rows], label=name)
        right.plot(epochs, [row["train_accuracy"] for row in rows], color=line.get_color())
        if rows and "val_nll" in rows[0]:
            validated = True
            dashed: dict[str, Any] = {"ls": "--", "color": line.get_color()}
            left.plot(epochs, [row["val_nll"] for row in rows], **dashed)
            right.plot(epochs, [row["val_accuracy"] for row in rows], **dashed)
    left.set(xlabel="epoch", ylabel="cross-entropy (nats)", yscale="log")
    right.set(xlabel="epoch", ylabel="accuracy")
    tick(left.yaxis)
    _count_epochs(left, right)
    title = "training data" + (" (dashed: validation data)" if validated else "")
    figure.legend(
        loc="outside lower center",
        ncols=min(4, max(1, len(history))),
        title=title,
    )
    return figure


@styled
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
        ax = new_axes(5.2, 3.6)
    for name in names:
        points = [
            (row.get("epoch", i + 1), row[name]) for i, row in enumerate(history) if name in row
        ]
        ax.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else "", label=name)
    ax.set_xlabel("epoch")
    _count_epochs(ax)
    if len(names) == 1:
        ax.set_ylabel(names[0])
    else:
        legend(ax, columns=2)
    save(ax, path)
    return ax


def _count_epochs(*axes: Axes) -> None:
    """Give axes of epochs whole numbers."""
    from matplotlib.ticker import MaxNLocator

    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))

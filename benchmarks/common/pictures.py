"""What pictures of results share: axes, grids and files. Colours and sizes are the library's.

Needs matplotlib: `pip install "bayes-htr[plot]"`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bayes_htr._plotting import AMBER, BLUE, DPI, GREY, INK, PURPLE, RED, SKY, TEAL, pyplot
from benchmarks.common.results import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METHOD_LINES: dict[str, tuple[str, str]] = {
    "none": (INK, ":"),
    "weight_decay": (RED, "--"),
    "spectral_norm": (AMBER, "-."),
    "dropout": (PURPLE, "--"),
    "label_smoothing": (GREY, "-."),
    "svi_lomax": (BLUE, "-"),
    "svi_exponential": (TEAL, "-"),
    "ensemble10": (INK, "--"),
    "mc_dropout": (PURPLE, ":"),
    "swag": (AMBER, ":"),
    "ivon": (RED, ":"),
    "laplace_last": (TEAL, ":"),
    "laplace_kron": (SKY, ":"),
    "sghmc": (GREY, ":"),
}
"""Colours and styles of the lines of methods by name."""
METHOD_MARKS: dict[str, str] = {
    "ensemble10": "d",
    "mc_dropout": "s",
    "swag": "^",
    "ivon": "v",
    "laplace_last": "D",
    "laplace_kron": "P",
    "sghmc": "X",
}
"""Marks of methods that are no more than a point; those of all others are circles."""


def log_axis(ax: Axes) -> None:
    """A logarithmic scale with plain numbers, at 1, 2 and 5 where it spans little."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 200 * low else (1.0,)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def grid(ax: Axes, axis: Literal["both", "x", "y"] = "both") -> None:
    """Light lines behind everything else."""
    ax.grid(axis=axis)


def method_legend(figure: Figure, labels: Mapping[str, str]) -> None:
    """Put a legend of methods above all panels.

    Args:
        figure: The figure, whose lines have the colours and styles of `METHOD_LINES` and the
            marks of `METHOD_MARKS`.
        labels: What each method is called, by its name.
    """
    handles = []
    for method, label in labels.items():
        colour, style = METHOD_LINES[method]
        mark = METHOD_MARKS.get(method, "o")
        handles.append(
            pyplot().Line2D([], [], color=colour, ls=style, marker=mark, ms=3, label=label)
        )
    figure.legend(handles=handles, loc="outside upper center", ncols=4)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, close it, and return its path.

    Raises:
        OutputError: The file cannot be written.
    """
    write_file(path, lambda aside: figure.savefig(aside, dpi=DPI, format="png"))
    pyplot().close(figure)
    return path

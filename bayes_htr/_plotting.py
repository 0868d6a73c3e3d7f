"""What all figures share: the style, the palette, bins, ticks, legends, and how to save one.

This is the only place that has colours and sizes. A figure is at most `WIDEST` inches wide, so that
its smallest letters can be read where a page shows it 800 pixels wide.

matplotlib is optional: `pip install "bayes-htr[plot]"`.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from functools import wraps
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import ParamSpec

from bayes_htr._files import write_output
from bayes_htr.errors import OutputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
P = ParamSpec("P")
T = TypeVar("T")

BLUE = "#1f5fa8"
"""The colour of data: eigenvalues, and quantities of a posterior."""
RED = "#b93a19"
"""The colour of a law that is fitted to data, and of a second network."""
TEAL = "#0b7a75"
"""The colour of the bulk that random matrix theory predicts."""
GREY = "#75797f"
"""The colour of what data are compared with, such as a prior, and of notes."""
INK = "#1d2126"
"""The colour of text, and of lines that say what is expected."""
AMBER, PURPLE, SKY = "#d08a00", "#8a5fa8", "#5aa9dd"
"""Further colours, where a figure has more than four things to tell apart."""
PALETTE = (BLUE, RED, TEAL, AMBER, PURPLE, SKY, GREY)
"""The colours of lines, in the order in which they are taken."""

WIDEST = 8.2
"""The largest width of a figure in inches."""
NOTE = 9
"""The size in points of the smallest letters."""
DPI = 150
"""Pixels per inch of a saved figure."""

STYLE: dict[str, Any] = {
    "figure.titlesize": 11.5,
    "figure.labelsize": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "xtick.labelsize": NOTE,
    "ytick.labelsize": NOTE,
    "legend.fontsize": NOTE,
    "legend.title_fontsize": NOTE,
    "legend.frameon": False,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "axes.prop_cycle": f"cycler(color={list(PALETTE)})",
    "lines.linewidth": 1.6,
}
"""Matplotlib's settings for the figures of this library."""

_DECADES = 6
_FEWEST_BINS, _MOST_BINS = 16, 60
_MOST_NAMES = 12


def pyplot() -> Any:
    """Return the module `matplotlib.pyplot`.

    Raises:
        ImportError: matplotlib is not installed; the message says how to install it.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "bayes-htr[plot]"') from error
    return plt


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Let a function draw in the style of this library, whatever the caller's settings are.

    Raises:
        ImportError: matplotlib is not installed.
    """

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> T:
        with pyplot().rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


@styled
def new_axes(width: float, height: float) -> Axes:
    """Return the axes of a new figure of a size in inches.

    Raises:
        ImportError: matplotlib is not installed.
    """
    axes: Axes = new_panels(1, 1, width, height)[1][0]
    return axes


@styled
def new_panels(
    rows: int, columns: int, width: float, height: float, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a new figure with axes in rows and columns.

    Args:
        rows: The number of rows.
        columns: The number of columns.
        width: The width of the figure in inches.
        height: The height of the figure in inches.
        options: Arguments of `matplotlib.pyplot.subplots`.

    Returns:
        The figure, and its axes from left to right and from top to bottom.

    Raises:
        ImportError: matplotlib is not installed.
    """
    size = {"figsize": (width, height), "layout": "constrained"}
    figure, axes = pyplot().subplots(rows, columns, squeeze=False, **size, **options)
    return figure, list(axes.flat)


def save(drawing: Axes | Figure, path: str | PathLike[str] | None) -> None:
    """Save a figure, or the figure that axes belong to, unless the path is `None`.

    The suffix of the file says its format; a file without one is a PNG and gets that suffix.

    Raises:
        OutputError: The format is unknown, or the file cannot be written; if there was one before,
            it is unchanged.
    """
    if path is None:
        return
    figure: Any = drawing.figure
    while not hasattr(figure, "savefig"):  # axes may belong to a part of a figure
        figure = figure.figure
    target = Path(path)
    if not target.suffix:
        target = target.with_name(f"{target.name}.png")
    kind, known = target.suffix[1:].lower(), figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise OutputError(
            f"{target} cannot be written: {kind!r} is no format of pictures; name a file that ends "
            f"with one of {', '.join(f'.{name}' for name in sorted(known))}"
        )
    write_output(target, lambda aside: figure.savefig(aside, dpi=DPI, format=kind))


def literal(text: str) -> str:
    """Return a text that matplotlib shows as it is: a dollar sign in it starts no formula."""
    return text.replace("$", r"\$")


def shortened(name: str, most: int = 30) -> str:
    """Return a name that matplotlib shows as it is, without its middle if it has too many letters.

    The end tells more than the beginning, which matrices have in common, and keeps more letters.
    """
    if len(name) > most:
        begin = most // 3
        name = f"{name[:begin]}…{name[begin + 1 - most :]}"
    return literal(name)


def legend(ax: Axes, *, columns: int = 1, **options: Any) -> None:
    """Put the legend of axes below them, where it covers no data, if they have one.

    A figure without a layout of its own, such as one that a caller has made, has no room below its
    axes. There the legend is within the axes, at the place with the least data.

    Args:
        ax: The axes.
        columns: The number of columns of the legend.
        options: Arguments of `Axes.legend`.
    """
    from matplotlib.transforms import ScaledTranslation

    if not ax.get_legend_handles_labels()[0]:
        return
    figure: Any = ax.figure
    place: dict[str, Any] = {"loc": "best"}
    if figure.get_layout_engine() is not None:
        points = 38 if ax.get_xlabel() else 22
        down = ScaledTranslation(0, -points / 72, figure.dpi_scale_trans)
        place = {
            "loc": "upper left",
            "bbox_to_anchor": (0, 0),
            "bbox_transform": ax.transAxes + down,
            "borderaxespad": 0,
        }
    ax.legend(**(place | {"ncols": columns} | options))


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` of the indices below `count`, evenly spaced from first to last."""
    places = np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))
    return [int(place) for place in places] if count else []


def note_left_out(figure: Figure, names: Sequence[str]) -> None:
    """Say below a figure which names it does not show, of which at most twelve are written out."""
    if not names:
        return
    shown = ", ".join(names[:_MOST_NAMES])
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    width = int(figure.get_figwidth() * 13)
    text = textwrap.fill(literal(f"not shown: {shown}{more}"), width)
    figure.supxlabel(text, fontsize=NOTE, color=GREY)


def tick(axis: Axis) -> None:
    """Put ticks on a logarithmic axis.

    An axis that spans less than a factor of 200 has plain numbers at 1, 2 and 5 of each decade, and
    at more of them if it spans less than a factor of 8. A longer one has powers of ten.
    """
    from matplotlib.ticker import (
        LogFormatterSciNotation,
        LogLocator,
        NullFormatter,
        StrMethodFormatter,
    )

    low, high = axis.get_view_interval()
    if high / low < 200:
        few = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0) if high / low < 8 else (1.0, 2.0, 5.0)
        axis.set_major_locator(LogLocator(subs=few))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        axis.set_major_formatter(LogFormatterSciNotation())
    axis.set_minor_formatter(NullFormatter())


def log_bins(
    values: Array, count: int | None = None, *, through: float | None = None
) -> Array | None:
    """Return the edges of 16 to 60 bins of equal width on a logarithmic axis.

    This is the rule of all histograms of eigenvalues. The number of bins follows the
    Freedman-Diaconis rule for the logarithms. The bins hold the values down to six decades below
    the largest.

    Args:
        values: `(n,)` values, of one or several spectra; those that are not positive are left out.
        count: The number of eigenvalues of one spectrum, which decides the number of bins; `n` by
            default.
        through: A value at which there is to be an edge, for which the bins are moved.

    Returns:
        `(B+1,)` edges, or `None` where all values are equal.
    """
    values = np.sort(values[values > 0])
    if not len(values) or not values[0] < values[-1]:
        return None
    logs = np.log(values[values >= values[-1] * 10.0**-_DECADES])
    span = float(logs[-1] - logs[0])
    if not span > 1e-9:
        return None
    spread = float(np.subtract(*np.quantile(logs, [0.75, 0.25])))
    bins = span / (2 * spread / (count or len(logs)) ** (1 / 3)) if spread > 0 else _FEWEST_BINS
    number = int(np.clip(math.ceil(bins), _FEWEST_BINS, _MOST_BINS))
    if through is not None:
        width, start = span / number, math.log(through)
        first = math.floor((logs[0] - start) / width - 1e-9)
        last = math.floor((logs[-1] - start) / width + 1e-9) + 1
        return np.asarray(np.exp(start + width * np.arange(first, last + 1)))
    edges = np.exp(np.linspace(logs[0], logs[-1], number + 1))
    edges[0], edges[-1] = np.exp(logs[0]) * (1 - 1e-12), values[-1]  # the ends belong to the bins
    return edges


def bin_density(values: Array, edges: Array, count: int | None = None) -> Array:
    """Return `(B,)` the share of all values in each bin, divided by the width of the bin.

    Args:
        values: `(n,)` values; those outside of all bins belong to the total.
        edges: `(B+1,)` edges of the bins.
        count: The number of all values; `n` by default.
    """
    total = len(values) if count is None else count
    return np.asarray(np.histogram(values, edges)[0] / (total * np.diff(edges)))

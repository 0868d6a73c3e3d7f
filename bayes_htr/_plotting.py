"""What all figures share: matplotlib itself, colours, bins, ticks, labels, and how to save one.

matplotlib is optional: `pip install "bayes-htr[plot]"`.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

BLUE = "#1f5fa8"
"""The colour of data: eigenvalues, and quantities of a posterior."""
RED = "#c8401e"
"""The colour of a law that is fitted to data."""
TEAL = "#0b7a75"
"""The colour of the bulk that random matrix theory predicts."""
GREY = "#9a9a9a"
"""The colour of what data are compared with, such as a prior, and of notes."""
BLUE_BARS, BLUE_LINE = "#3b6fb6", "#1d3f73"
"""The colours of a histogram, and of a line that lies on its bars."""
GREY_BARS, GREY_LINE = "#b9b9b9", "#5d5d5d"
"""The colours of a histogram behind another one, and of a line that lies on its bars."""


def pyplot() -> Any:
    """The module `matplotlib.pyplot`.

    Raises:
        ImportError: matplotlib is not installed; the message says how to install it.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "bayes-htr[plot]"') from error
    return plt


def new_axes(width: float, height: float) -> Axes:
    """The axes of a new figure of a size in inches.

    Raises:
        ImportError: matplotlib is not installed.
    """
    axes: Axes = pyplot().subplots(figsize=(width, height), layout="constrained")[1]
    return axes


def save(drawing: Axes | Figure, path: str | PathLike[str] | None) -> None:
    """Save a figure, or the figure that axes belong to, unless the path is `None`."""
    if path is not None:
        drawing.figure.savefig(path, dpi=150)  # type: ignore[union-attr]


def literal(text: str) -> str:
    """A text that matplotlib shows as it is: a dollar sign in it starts no formula."""
    return text.replace("$", r"\$")


def tick(axis: Axis) -> None:
    """Put ticks on a logarithmic axis.

    An axis that spans less than a factor of 200 has plain numbers at 1, 2 and 5 of each decade; a
    longer one has powers of ten.
    """
    from matplotlib.ticker import (
        LogFormatterSciNotation,
        LogLocator,
        NullFormatter,
        StrMethodFormatter,
    )

    low, high = axis.get_view_interval()
    if high / low < 200:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        axis.set_major_formatter(LogFormatterSciNotation())
    axis.set_minor_formatter(NullFormatter())


def log_bins(values: np.ndarray, count: int) -> np.ndarray:
    """Edges of bins of equal width in the logarithm.

    Args:
        values: Positive values, `(N,)`, of one or several spectra.
        count: The number of eigenvalues in a spectrum, which decides the number of bins.
    """
    low, high = np.quantile(values, 0.002), values.max()
    bins = max(8, min(40, int(2 * count**0.5)))
    return np.geomspace(min(low, high / 1.001), high * 1.0001, bins)


def log_density(values: np.ndarray, edges: Sequence[float] | np.ndarray) -> np.ndarray:
    """The density of the logarithm of values in each bin.

    Values outside of all bins belong to the total, so that the densities may integrate to less
    than 1.
    """
    return np.histogram(values, edges)[0] / (len(values) * np.diff(np.log(edges)))

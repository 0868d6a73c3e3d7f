"""Functions of matplotlib that all figures need: `pip install "bayes-htr[plot]"`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axis import Axis


def pyplot() -> Any:
    """`matplotlib.pyplot`.

    Raises:
        ImportError: matplotlib is not installed; the message says how to install it.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "bayes-htr[plot]"') from error
    return plt


def literal(text: str) -> str:
    """A name without formulas: dollar signs are escaped."""
    return text.replace("$", r"\$")


def tick(axis: Axis) -> None:
    """Ticks at 1, 2 and 5 as plain numbers if the axis spans little, and at decades otherwise."""
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

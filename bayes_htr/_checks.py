"""Checks of settings; each error names the setting, its value and what it must be."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

_LONGEST = 100


def shown(value: Any) -> str:
    """Return a value as an error message shows it: on one line, and cut off if it is long."""
    text = " ".join(repr(value).split())
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]}... (of type {type(value).__name__})"


def number(
    value: Any,
    what: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    error: type[Exception] = ValueError,
) -> float:
    """Return `value` as a finite float within its bounds.

    Args:
        value: Any real number but a boolean.
        what: The name of the setting in the error message.
        above: The number must be greater than this.
        at_least: The number must not be less than this.
        below: The number must be less than this.
        error: The class of the error to raise.

    Raises:
        ValueError: The value is no finite number, or is out of bounds. The error is of the class
            `error` if one is given.
    """
    result = math.nan
    if not isinstance(value, bool) and isinstance(value, numbers.Real):
        try:
            result = float(value)
        except OverflowError:
            result = math.inf
    if (
        math.isfinite(result)
        and (above is None or result > above)
        and (at_least is None or result >= at_least)
        and (below is None or result < below)
    ):
        return result
    lower = f" greater than {above:g}" if above is not None else ""
    if at_least is not None:
        lower += f" of at least {at_least:g}"
    upper = f"{' and' if lower else ''} below {below:g}" if below is not None else ""
    raise error(f"{what}={shown(value)} must be a finite number{lower}{upper}")


def whole_number(
    value: Any,
    what: str,
    *,
    at_least: int = 0,
    below: int | None = None,
    error: type[Exception] = ValueError,
) -> int:
    """Return `value` as an int within its bounds.

    Args:
        value: An integer of Python, NumPy or PyTorch; neither a boolean nor a float.
        what: The name of the setting in the error message.
        at_least: The number must not be less than this.
        below: The number must be less than this.
        error: The class of the error to raise.

    Raises:
        ValueError: The value is no whole number, or is out of bounds. The error is of the class
            `error` if one is given.
    """
    try:
        result = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        result = None
    if result is None or result < at_least or (below is not None and result >= below):
        upper = "" if below is None else f" and below {below}"
        raise error(f"{what}={shown(value)} must be a whole number of at least {at_least}{upper}")
    return result


def texts(value: Any, what: str, *, error: type[Exception] = ValueError) -> tuple[str, ...]:
    """Return one text or several, such as patterns of names, as a tuple.

    Args:
        value: A text, or any iterable of texts.
        what: The name of the setting in the error message.
        error: The class of the error to raise.

    Raises:
        ValueError: The value is something else. The error is of the class `error` if one is given.
    """
    if isinstance(value, str):
        return (value,)
    try:
        values = tuple(value)
    except TypeError:
        values = (value,)
    for item in values:
        if not isinstance(item, str):
            raise error(
                f"{what}={shown(value)} must be a text or several texts, and {shown(item)} is none"
            )
    return values

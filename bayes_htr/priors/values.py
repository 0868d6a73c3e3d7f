"""Values, from which laws, priors and schedules are built.

A value is a frozen dataclass that contains numbers, strings and other values, but never tensors or
closures. Values can be copied, pickled, compared, hashed and printed, and converted with `to_dict`
and `from_dict`. `from_dict` accepts only the names of the subclasses of `Value` in this library.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, ClassVar, TypeVar

from bayes_htr import _checks
from bayes_htr.errors import PriorError

V = TypeVar("V", bound="Value")


@dataclasses.dataclass(frozen=True, repr=False)
class Value:
    """Base class of all values."""

    _types: ClassVar[dict[str, type[Value]]] = {}

    def __init_subclass__(cls, abstract: bool = False) -> None:
        # Only the library's own classes can be named in a file.
        if cls.__module__.startswith("bayes_htr.") and not abstract:
            Value._types[cls.__name__] = cls

    def __repr__(self) -> str:
        # As one would write it: defaults left out, and positional until the first is left out.
        shown, positional = [], True
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                positional = False
            else:
                shown.append(repr(value) if positional else f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def _given(self) -> dict[str, Any]:
        """Return the fields by name, without those that were left out and default to `None`."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: v for k, v in fields.items() if v is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return the value as nested dicts, lists, numbers and strings, for JSON and TOML."""
        return {"type": type(self).__name__, **{k: _plain(v) for k, v in self._given().items()}}

    @classmethod
    def from_dict(cls: type[V], data: Any) -> V:
        """Return the value from which `to_dict` made this dictionary.

        Raises:
            PriorError: `data` is no table with a known `type`, a key is unknown or missing, or the
                value is of another kind than this class.
        """
        value = _parse(data, "value")
        if not isinstance(value, cls):
            raise PriorError(f"{value!r} is not a {cls.__name__}")
        return value


def _plain(value: Any) -> Any:
    if isinstance(value, Value):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value


def _parse(data: Any, where: str) -> Any:
    if isinstance(data, list | tuple):
        return tuple(_parse(v, f"{where}[{i}]") for i, v in enumerate(data))
    if not isinstance(data, dict):
        if where == "value":
            raise PriorError(f"expected a table with a 'type', got {data!r}")
        return data
    given = dict(data)
    name = given.pop("type", None)
    kind = Value._types.get(name) if isinstance(name, str) else None
    if kind is None:
        raise PriorError(
            f"type={name!r} in {data!r} is not one of {', '.join(sorted(Value._types))}"
        )
    known = [f.name for f in dataclasses.fields(kind) if f.init]
    for key in given:
        if key not in known:
            raise PriorError(f"{name} has no {key!r}; it takes {', '.join(known) or 'nothing'}")
    try:
        return kind(**{k: _parse(v, f"{name}.{k}") for k, v in given.items()})
    except TypeError as error:
        raise PriorError(f"{name}: {error}") from error


number = partial(_checks.number, error=PriorError)
"""A finite float within its bounds, as `_checks.number`, but with a `PriorError`."""


def integer(value: Any, what: str, *, at_least: int) -> int:
    """Return `value` as an int of at least `at_least`.

    Raises:
        PriorError: The value is no whole number, or is too small; `what` names it.
    """
    result = number(value, what, at_least=at_least)
    if result != int(result):
        raise PriorError(f"{what}={value!r} must be a whole number")
    return int(result)

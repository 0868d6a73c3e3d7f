"""The guides that `htr.SVI` takes, by name or as a class of Pyro, and the settings of each."""

from __future__ import annotations

from typing import Any

from bayes_htr.inference.guides import GUIDES, VariationalGuide
from bayes_htr.inference.guides.pyro_guide import PYRO_GUIDES, PyroGuide, is_pyro_guide, takes_scale

_OPTIONS = ("init_scale", "rank", "directions", "refresh")
"""Settings of `htr.SVI` of some guides alone."""


def guide_names() -> tuple[str, ...]:
    """The guides that are asked for by name."""
    return tuple(_by_name())


def guide_class(guide: Any) -> type[VariationalGuide]:
    """The class of guides that is asked for.

    Raises:
        ValueError: Neither one of `guide_names` nor a class of `PYRO_GUIDES`.
    """
    if is_pyro_guide(guide):
        return PyroGuide
    if not (isinstance(guide, str) and guide in _by_name()):
        raise ValueError(
            f"guide={guide!r} must be one of {', '.join(_by_name())}, or of the classes "
            f"{', '.join(PYRO_GUIDES)} of pyro.infer.autoguide"
        )
    return _by_name()[guide]


def check_options(method: Any) -> None:
    """Look whether the guide takes each setting that is given, and not `None`.

    Args:
        method: A `htr.SVI`.

    Raises:
        ValueError: A setting that the guide would ignore.
    """
    guide = method.guide
    taken = guide_class(guide).options
    if not isinstance(guide, str) and not takes_scale(guide):
        taken = taken - {"init_scale"}
    for name in _OPTIONS:
        value = getattr(method, name)
        if value is not None and name not in taken:
            shown = repr(guide) if isinstance(guide, str) else guide.__name__
            others = [kind for kind, other in _by_name().items() if name in other.options]
            raise ValueError(
                f"{name}={value!r} is no setting of guide={shown}; leave it out, or take "
                f"guide={' or '.join(map(repr, others))}"
            )


def _by_name() -> dict[str, type[VariationalGuide]]:
    return {
        kind: guide
        for kind, guide in GUIDES.items()
        if issubclass(guide, VariationalGuide) and guide is not PyroGuide
    }

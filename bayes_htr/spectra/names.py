"""Names of parameters and of their matrices, and the patterns that find them.

A matrix that is a whole parameter has the parameter's name. If a parameter has several matrices,
the name is followed by the part in brackets, as in `attention.in_proj_weight[q]`,
`experts.gate_up_proj[3]` and `experts.gate_up_proj[3,gate]`. Patterns are those of `fnmatch`; one
that ends in brackets, such as `*.in_proj_weight[q]` and `*.gate_up_proj[*,gate]`, selects parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")


def plain_name(name: str) -> str:
    """Return the name of a parameter without what `torch.compile` and checkpoint wrappers add."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def without_wrappers(name: str) -> str:
    """Return a name or pattern without the prefixes of `DataParallel` and `torch.compile`."""
    name = plain_name(name)
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def split_part(name: str) -> tuple[str, str]:
    """Split the name of a matrix into the name of its parameter and its part, which may be empty.

    Example:
        >>> split_part("attention.in_proj_weight[q]")
        ('attention.in_proj_weight', 'q')
    """
    if not name.endswith("]"):
        return name, ""
    parameter, _, part = name[:-1].rpartition("[")
    return parameter, part


def matches_name(pattern: str, names: Iterable[str]) -> bool:
    """Return whether a pattern matches one of a parameter's names, with or without wrappers."""
    plain = without_wrappers(pattern)
    return any(
        name == pattern or fnmatchcase(name, pattern) or fnmatchcase(without_wrappers(name), plain)
        for name in names
    )


def matches_part(pattern: str, names: Iterable[str], part: str) -> bool:
    """Return whether a pattern that ends in brackets matches a part of a parameter.

    The parameter has these `names`.
    """
    stem, wanted = split_part(pattern)
    return bool(wanted and part) and fnmatchcase(part, wanted) and matches_name(stem, names)


def matches_matrix(pattern: str, name: str) -> bool:
    """Return whether a pattern matches the name of a matrix or that of its parameter."""
    parameter, part = split_part(name)
    return (
        matches_name(pattern, [name])
        or matches_part(pattern, [parameter], part)
        or (bool(part) and matches_name(pattern, [parameter]))
    )

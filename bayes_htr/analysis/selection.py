"""Which weights are analysed: by patterns of their names, and by size."""

from __future__ import annotations

from collections.abc import Sequence

from bayes_htr.analysis.weights import Conv, Source, Weight, matches
from bayes_htr.errors import DataError


def select(
    source: Source,
    *,
    include: Sequence[str],
    exclude: Sequence[str],
    min_size: int,
    conv: Conv,
) -> tuple[list[Weight], dict[str, str]]:
    """The weights to analyse, and by name why others are left out.

    Args:
        source: All of them.
        include: Names, or patterns as `fnmatch`; a weight that matches one is in; all if empty.
        exclude: Patterns of those that are out.
        min_size: The fewest eigenvalues.
        conv: How convolutions are seen.

    Raises:
        DataError: A pattern that matches nothing, or no weight that is left.
        ValueError: `min_size` below 1.
    """
    if min_size < 1:
        raise ValueError(f"min_size={min_size} must be at least 1")
    for pattern in (*include, *exclude):
        if not any(matches(w.name, [pattern]) for w in source.weights):
            names = ", ".join(w.name for w in source.weights[:20]) or "none"
            raise DataError(f"{pattern!r} matches no weight of {source.label}; there are: {names}")
    kept: list[Weight] = []
    skipped = dict(source.skipped)
    for weight in source.weights:
        size = weight.count(conv)
        if include and not matches(weight.name, include):
            skipped[weight.name] = "no pattern includes it"
        elif matches(weight.name, exclude):
            skipped[weight.name] = "excluded"
        elif size < min_size:
            skipped[weight.name] = f"{size} eigenvalues, fewer than {min_size}"
        else:
            kept.append(weight)
    if not kept:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[:5])
        raise DataError(
            f"{source.label} holds no weight matrix to analyse "
            f"({reasons or 'no tensor has two dimensions or more'}); change the patterns, lower "
            "min_size, or name another file"
        )
    return kept, skipped

"""Kinds of verdict, for marks in pictures and counts in summaries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of verdict.

    Attributes:
        key: A short word.
        label: How a legend calls it.
        says: What it says of so many matrices, after their number.
        starts: How its verdicts begin.
        mark: Matplotlib's marker.
        filled: Whether the exponent is one of a power law, so that the marker is filled.
    """

    key: str
    label: str
    says: str
    starts: tuple[str, ...]
    mark: str
    filled: bool


KINDS = (
    Kind(
        "heavy",
        "heavy-tailed",
        "heavy-tailed, by the whole interval of alpha or most of it",
        ("very heavy-tailed", "heavy-tailed", "heavy- or very heavy-tailed"),
        "o",
        True,
    ),
    Kind(
        "light",
        "light-tailed, or perhaps",
        "light-tailed (alpha above 6), or not told apart from that",
        ("light-tailed", "heavy- or light-tailed"),
        "v",
        True,
    ),
    Kind(
        "random",
        "like a random matrix",
        "with the spectrum of a random matrix: their exponents mean nothing",
        ("like a random matrix",),
        "s",
        False,
    ),
    Kind(
        "doubtful",
        "power law doubtful",
        "with a tail that is no power law, or that another law fits better",
        ("power law rejected", "power law doubtful"),
        "D",
        False,
    ),
    Kind(
        "untold",
        "too little to tell",
        "too small or too uncertain to tell, tied, or without a tail",
        ("too few", "too uncertain", "no tail", "tied"),
        "o",
        False,
    ),
)


def kind_of(verdict: str) -> Kind:
    """The kind that a verdict is of."""
    for kind in KINDS:
        if verdict.startswith(kind.starts):
            return kind
    raise ValueError(f"{verdict!r} is no verdict of a matrix")

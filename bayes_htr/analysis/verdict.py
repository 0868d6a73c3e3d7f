"""What a row says of a matrix: a kind, and words that take the uncertainty into account.

In this order: is there enough to tell; does the spectrum pass for a random matrix's, whose tail
fit means nothing; is the power law rejected; and where does the whole interval of alpha lie. Below
2 and above 6 are WeightWatcher's bounds of heavy tails.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from typing_extensions import Self

from bayes_htr.analysis.marchenko_pastur import MarchenkoPasturFit
from bayes_htr.tails import Comparison, PowerlawFit, SpectrumTail
from bayes_htr.tails.alternatives import LAW_NAMES, best_alternative

REJECTED = 0.1
VERY_HEAVY, LIGHT = 2.0, 6.0


@dataclass(frozen=True)
class Kind:
    """A kind of verdict, for marks in pictures and counts in summaries.

    Attributes:
        key: A short word.
        label: How a legend calls it.
        says: What it says of so many matrices, after their number.
        mark: Matplotlib's marker.
        filled: Whether the exponent is one of a power law, so that the marker is filled.
    """

    key: str
    label: str
    says: str
    mark: str
    filled: bool


HEAVY_TAILED = Kind(
    "heavy",
    "heavy-tailed",
    "heavy-tailed, by the whole interval of alpha or most of it",
    "o",
    True,
)
LIGHT_TAILED = Kind(
    "light",
    "light-tailed, or perhaps",
    "light-tailed (alpha above 6), or not told apart from that",
    "v",
    True,
)
RANDOM_LIKE = Kind(
    "random",
    "like a random matrix",
    "with the spectrum of a random matrix: their exponents mean nothing",
    "s",
    False,
)
DOUBTFUL = Kind(
    "doubtful",
    "power law doubtful",
    "with a tail that is no power law, or that another law fits better",
    "D",
    False,
)
UNTOLD = Kind(
    "untold",
    "too little to tell",
    "too small or too uncertain to tell, tied, or without a tail",
    "o",
    False,
)
KINDS = (HEAVY_TAILED, LIGHT_TAILED, RANDOM_LIKE, DOUBTFUL, UNTOLD)


class Verdict(str):
    """One sentence without a full stop, and its kind.

    A string, so that tables and files take it as it is.

    Attributes:
        kind: Its kind.
    """

    __slots__ = ("kind",)
    kind: Kind

    def __new__(cls, text: str, kind: Kind) -> Self:
        """The sentence with its kind."""
        verdict = super().__new__(cls, text)
        verdict.kind = kind
        return verdict

    def __getnewargs__(self) -> tuple[str, Kind]:  # type: ignore[override]
        """What copies and pickles are made from."""
        return str(self), self.kind


def kind_of(row: dict[str, Any]) -> Kind:
    """The kind of a row's verdict."""
    verdict = row["verdict"]
    assert isinstance(verdict, Verdict)
    return verdict.kind


def verdict(
    tail: SpectrumTail, bulk: MarchenkoPasturFit | None, comparisons: list[Comparison]
) -> Verdict:
    """What there is to say.

    Args:
        tail: Of the spectrum.
        bulk: The Marchenko-Pastur bulk, if it was fitted.
        comparisons: With other laws.
    """
    fit = tail.fit
    if tail.few:
        return Verdict(tail.problem, UNTOLD)
    if bulk is not None and bulk.random_like:
        return Verdict("like a random matrix (Marchenko-Pastur)", RANDOM_LIKE)
    if tail.problem or fit is None:
        return Verdict(tail.problem, UNTOLD)
    if fit.p_value is not None and fit.p_value <= REJECTED:
        words = f"power law rejected (p = {fit.p_value:.2g}){_better(comparisons)}"
        return Verdict(words, DOUBTFUL)
    if better := _better(comparisons):
        return Verdict(f"power law doubtful{better}", DOUBTFUL)
    return _of_interval(fit)


def _better(comparisons: list[Comparison]) -> str:
    """The alternative that is favoured most."""
    best = best_alternative(comparisons)
    if best is None:
        return ""
    p = best.vuong_p if best.nested_p is None else best.nested_p
    return f": {LAW_NAMES[best.name]} fits better (p = {p:.2g})"


def _of_interval(fit: PowerlawFit) -> Verdict:
    low, high = fit.searched_interval or fit.interval
    about = f"alpha {fit.alpha:.1f} ({low:.1f} to {high:.1f})"
    if high < VERY_HEAVY:
        return Verdict(f"very heavy-tailed: {about}", HEAVY_TAILED)
    if low > LIGHT:
        return Verdict(f"light-tailed: {about}", LIGHT_TAILED)
    if low >= VERY_HEAVY and high <= LIGHT:
        return Verdict(f"heavy-tailed: {about}", HEAVY_TAILED)
    if low < VERY_HEAVY and high > LIGHT:
        return Verdict(f"too uncertain to tell: {about}", UNTOLD)
    if low < VERY_HEAVY:
        return Verdict(f"heavy- or very heavy-tailed: {about}", HEAVY_TAILED)
    return Verdict(f"heavy- or light-tailed: {about}", LIGHT_TAILED)

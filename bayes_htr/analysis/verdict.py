"""The verdict of a report on a matrix: a sentence that takes the uncertainty into account.

The verdict answers these questions in turn. Are there enough eigenvalues to tell? Is the spectrum
compatible with that of a random matrix, so that the fit of its tail has no meaning? Is the power
law rejected? Where does the whole interval of alpha lie? Heavy tails have an alpha from 2 to 6, as
in WeightWatcher.

A power law is rejected or accepted only if the 99 % interval of its p-value lies on one side of
0.1. Without a bootstrap it is neither. More replicates of the bootstrap may therefore decide an
open verdict, but they seldom turn one decision into another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import Self

from bayes_htr.analysis.bulk import MarchenkoPasturFit
from bayes_htr.tails import Comparison, PowerlawFit, SpectrumTail
from bayes_htr.tails.alternatives import LAW_NAMES, best_alternative

REJECTED = 0.1
VERY_HEAVY, LIGHT = 2.0, 6.0


@dataclass(frozen=True)
class Kind:
    """A kind of verdict, for marks in pictures and counts in summaries.

    Attributes:
        key: A short word for names of columns.
        label: The text in legends.
        says: The text that follows the number of matrices of this kind in a summary.
        mark: The marker in Matplotlib.
        filled: Whether the marker is filled, because the exponent is that of a power law.
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
    "too small or too uncertain to tell, tied, not finite, or without a tail",
    "o",
    False,
)
UNTESTED = Kind(
    "untested",
    "not known to be a power law",
    "not tested as power laws, or with too few replicates to decide",
    "v",
    False,
)
KINDS = (HEAVY_TAILED, LIGHT_TAILED, RANDOM_LIKE, DOUBTFUL, UNTESTED, UNTOLD)


class Verdict(str):
    """One sentence without a full stop, with its kind.

    A verdict is a string, so that tables and files can contain it as it is.

    Attributes:
        kind: The kind of the verdict.
    """

    __slots__ = ("kind",)
    kind: Kind

    def __new__(cls, text: str, kind: Kind) -> Self:
        """Make the verdict from its sentence and its kind."""
        verdict = super().__new__(cls, text)
        verdict.kind = kind
        return verdict

    def __getnewargs__(self) -> tuple[str, Kind]:  # type: ignore[override]
        """Return the arguments from which copies and pickles are made."""
        return str(self), self.kind


def verdict(
    tail: SpectrumTail, bulk: MarchenkoPasturFit | None, comparisons: Sequence[Comparison]
) -> Verdict:
    """Judge a matrix.

    Args:
        tail: The tail of its spectrum.
        bulk: The Marchenko-Pastur bulk, if it was fitted.
        comparisons: Comparisons of the power law with other laws.
    """
    fit = tail.fit
    if tail.few:
        return Verdict(tail.problem, UNTOLD)
    if bulk is not None and bulk.random_like:
        return Verdict("like a random matrix (Marchenko-Pastur)", RANDOM_LIKE)
    if tail.problem or fit is None:
        return Verdict(tail.problem, UNTOLD)
    best = best_alternative(comparisons)
    better = "" if best is None else f": {_meaning(best)}"
    rejected = fit.rejected(REJECTED)
    if rejected:
        return Verdict(f"power law rejected (p = {fit.p_value:.2g}){better}", DOUBTFUL)
    if best is not None:
        no_power_law = best.parameters.get("alpha", math.inf) <= 1
        prefix = "no power law" if no_power_law else "power law doubtful"
        return Verdict(f"{prefix}{better}", DOUBTFUL)
    by_interval = _by_interval(fit)
    if fit.p_value is None:
        return Verdict(f"not tested; if it is a power law, {by_interval}", UNTESTED)
    if rejected is None:
        undecided = f"not decided by {fit.replicates} replicates (p = {fit.p_value:.2g})"
        return Verdict(f"{undecided}; if it is a power law, {by_interval}", UNTESTED)
    return by_interval


def _meaning(best: Comparison) -> str:
    """Return the verdict on the tail that follows from the law that fits best."""
    p = f"p = {best.p_value:.2g}"
    if best.name == "truncated_power_law" and best.parameters:
        alpha = best.parameters["alpha"]
        if alpha <= 1:  # not a density without the cut-off
            return f"it decays exponentially, with alpha {alpha:.2g} before the cut-off ({p})"
        end = 1 / best.parameters["Lambda"]
        name = LAW_NAMES[best.name]
        return f"{name} fits better ({p}), with alpha {alpha:.2g} up to about {end:.2g}"
    return f"{LAW_NAMES[best.name]} fits better ({p})"


def _by_interval(fit: PowerlawFit) -> Verdict:
    low, high = fit.shown_interval
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

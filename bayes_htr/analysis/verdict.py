"""What a row says, in words that take the uncertainty into account.

In this order: is there enough to tell; does the spectrum pass for a random matrix's, whose tail
fit means nothing; is the power law rejected; and where does the whole interval of alpha lie. Below
2 and above 6 are WeightWatcher's bounds of heavy tails.
"""

from __future__ import annotations

from bayes_htr.analysis.marchenko_pastur import MarchenkoPasturFit
from bayes_htr.tails import Comparison, PowerlawFit, SpectrumTail
from bayes_htr.tails.spectrum_tail import LAW_NAMES

REJECTED = 0.1
VERY_HEAVY, LIGHT = 2.0, 6.0


def verdict(
    tail: SpectrumTail, bulk: MarchenkoPasturFit | None, comparisons: list[Comparison]
) -> str:
    """One sentence without a full stop.

    Args:
        tail: Of the spectrum.
        bulk: The Marchenko-Pastur bulk, if it was fitted.
        comparisons: With other laws.
    """
    fit = tail.fit
    if tail.few:
        return tail.problem
    if bulk is not None and bulk.random_like:
        return "like a random matrix (Marchenko-Pastur)"
    if tail.problem or fit is None:
        return tail.problem
    if fit.p_value is not None and fit.p_value <= REJECTED:
        return f"power law rejected (p = {fit.p_value:.2g}){_better(comparisons)}"
    if better := _better(comparisons):
        return f"power law doubtful{better}"
    return _of_interval(fit)


def _better(comparisons: list[Comparison]) -> str:
    """The alternative that is favoured most."""
    better = [c for c in comparisons if c.favours == c.name]
    if not better:
        return ""
    best = min(better, key=lambda c: c.ratio)
    p = best.vuong_p if best.nested_p is None else best.nested_p
    return f": {LAW_NAMES[best.name]} fits better (p = {p:.2g})"


def _of_interval(fit: PowerlawFit) -> str:
    low, high = fit.searched_interval or fit.interval
    about = f"alpha {fit.alpha:.1f} ({low:.1f} to {high:.1f})"
    if high < VERY_HEAVY:
        return f"very heavy-tailed: {about}"
    if low > LIGHT:
        return f"light-tailed: {about}"
    if low >= VERY_HEAVY and high <= LIGHT:
        return f"heavy-tailed: {about}"
    if low < VERY_HEAVY and high > LIGHT:
        return f"too uncertain to tell: {about}"
    return f"{'heavy- or very heavy' if low < VERY_HEAVY else 'heavy- or light'}-tailed: {about}"

"""The semi-parametric bootstrap of a fitted tail: its p-value, and how far its xmin scatters.

A replicate of n values draws each value from the fitted law above xmin with probability
`n_tail / n`, and otherwise from the sample's values below xmin. It is then fitted as the sample
was, including the search for xmin. Where xmin is known, only the tail is drawn.

The p-value is `(1 + #{D* >= D}) / (1 + B)`: the share of replicates at least as far from their law
as the sample is from its own, with the sample counted among them. It is a valid level for every B,
and slightly larger than the plain share of Clauset, Shalizi and Newman.

Replicates of the fit show how the search scatters about a true xmin, but the fitted xmin may not be
true. `second_round` therefore draws as many replicates again, each from the sample's tail at the
xmin that a replicate of the first round chose. Clauset's p-value uses the first round alone, and is
too often small where a small sample's body passes smoothly into its tail; the p-value of both
rounds is not.

References:
    Clauset, Shalizi & Newman (2009), SIAM Review 51(4), section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy

from bayes_htr.tails.search import (
    ROUNDING,
    Array,
    Index,
    Rule,
    law_cdf,
    search_xmin,
    truncated_quantile,
)

_DOUBT = 0.01  # of an error in a decision by a p-value
_VALUES_AT_A_TIME = 30_000  # over all replicates that are fitted together


@dataclass(frozen=True)
class FittedTails:
    """M tails of one sample, from which replicates are drawn in turn.

    Attributes:
        log_values: `(n,)` logarithms of the sample, ascending.
        start: `(M,)` index of the first value of each tail.
        log_xmin: `(M,)` where each tail begins.
        rate: `(M,)` `alpha - 1` of each tail.
        span: `(M,)` `log(xmax / xmin)` if the law has an upper end.
        free_xmax: Whether the upper end was fitted, so that every replicate has its own.
    """

    log_values: Array
    start: Index
    log_xmin: Array
    rate: Array
    span: Array | None = None
    free_xmax: bool = False

    @property
    def num_below_xmax(self) -> int:
        """The number of values below the upper end of the sample; all, if there is no upper end."""
        if self.span is None:
            return len(self.log_values)
        log_xmax = self.log_xmin[0] + self.span[0]
        return int(np.searchsorted(self.log_values, log_xmax - ROUNDING))

    def draw_samples(self, which: Index, random: np.random.Generator) -> Array:
        """Return `(R, n)` logarithms of replicates from R of the M tails, each row ascending."""
        shape = (len(which), len(self.log_values))
        samples = self.draw_tails(which, shape[1], random)
        start = self.start[which][:, None]
        if start.any():
            body = self.log_values[(random.random(shape) * start).astype(np.intp)]
            samples = np.where(random.random(shape) * shape[1] < start, body, samples)
        samples.sort(axis=1)
        return samples

    def draw_tails(self, which: Index, n: int, random: np.random.Generator) -> Array:
        """Return `(R, n)` logarithms of values from the laws of R of the M tails."""
        shape = (len(which), n)
        log_xmin, rate = self.log_xmin[which][:, None], self.rate[which][:, None]
        if self.span is None:
            return log_xmin + random.standard_exponential(shape) / rate
        return log_xmin + truncated_quantile(rate, random.random(shape), self.span[which][:, None])

    def log_xmax(self, which: Index, samples: Array) -> Array | None:
        """Return `(R,)` upper ends with which replicates are fitted, if the law has one."""
        if self.span is None:
            return None
        return samples[:, -1] if self.free_xmax else self.log_xmin[which] + self.span[which]


def p_value(replicates: Array, D: float) -> float:
    """Return the probability of a distance as large as `D`.

    It follows from the distances of replicates, `(B,)`.
    """
    return float((1 + np.sum(replicates >= D)) / (1 + len(replicates)))


def is_at_most(p: float, replicates: int, bound: float) -> bool | None:
    """Return whether the probability that a p-value estimates is at most a bound.

    Args:
        p: The p-value, `(1 + k) / (1 + replicates)`.
        replicates: The number of replicates behind it.
        bound: The bound.

    Returns:
        `None` if the 99 % interval of the probability (Clopper and Pearson's) contains the bound,
        so that more replicates may decide otherwise than these.
    """
    k = round(p * (1 + replicates)) - 1
    low = scipy.stats.beta.ppf(_DOUBT / 2, k, replicates - k + 1) if k > 0 else 0.0
    high = scipy.stats.beta.ppf(1 - _DOUBT / 2, k + 1, replicates - k) if k < replicates else 1.0
    if high <= bound:
        return True
    return False if low > bound else None


def bootstrap_searched(
    tails: FittedTails, rule: Rule, count: int, random: np.random.Generator
) -> tuple[Array, Array]:
    """Draw and fit replicates of a fit whose xmin was searched.

    Returns:
        `(B,)` logarithms of their xmins, and `(B,)` distances, which are nan and infinite where a
        replicate has no tail to fit.
    """
    parts = []
    for which in _batches(count, len(tails.start), len(tails.log_values)):
        samples = tails.draw_samples(which, random)
        chosen = search_xmin(samples, rule, tails.log_xmax(which, samples))
        log_xmin = samples[np.arange(len(which)), chosen.start]
        parts.append((np.where(np.isfinite(chosen.D), log_xmin, np.nan), chosen.D))
    log_xmins, D = (np.concatenate(part) for part in zip(*parts, strict=True))
    return log_xmins, D


def second_round(
    tails: FittedTails, rule: Rule, log_xmin: Array, random: np.random.Generator
) -> tuple[Array, Array]:
    """Draw and fit replicates from the sample's tails at the xmins that a first round chose.

    Args:
        tails: The fit from which the first round was drawn.
        rule: The rule by which tails are fitted and judged.
        log_xmin: `(B,)` logarithms of the xmins of the first round.
        random: The random generator.

    Returns:
        As `bootstrap_searched`.
    """
    starts = chosen_starts(tails, rule, log_xmin)
    return bootstrap_searched(tails_at(tails, rule, starts), rule, len(log_xmin), random)


def chosen_starts(tails: FittedTails, rule: Rule, log_xmin: Array) -> Index:
    """Return `(B',)` indices where tails of the sample begin at the xmins of replicates.

    A replicate's xmin stands for the lowest value of the sample that is not below it. Replicates
    without a tail, whose `log_xmin` is nan, are left out.
    """
    logs = tails.log_values
    largest = logs[tails.num_below_xmax - 1]
    last = min(len(logs) - rule.min_tail, int(np.searchsorted(logs, largest)) - 1)
    places = np.searchsorted(logs, log_xmin[np.isfinite(log_xmin)] - ROUNDING)
    starts = np.minimum(places, last)
    return np.searchsorted(logs, logs[starts])  # the first of equal values


def tails_at(tails: FittedTails, rule: Rule, starts: Index) -> FittedTails:
    """Return the tails of the same sample that begin at the values with the indices `(M,)`."""
    logs = tails.log_values
    log_xmin = logs[starts]
    excess, sizes = excess_and_size(logs, starts, log_xmin)
    span = None if tails.span is None else tails.log_xmin[0] + tails.span[0] - log_xmin
    rate = rule.rate(excess, sizes, span)
    return FittedTails(logs, starts, log_xmin, rate, span, tails.free_xmax)


def excess_and_size(logs: Array, starts: Index, log_xmin: Array) -> tuple[Array, Array]:
    """Return `(M,)` sums of `log(x / xmin)` over tails of one sample, and the `(M,)` sizes."""
    sizes = (len(logs) - starts).astype(float)
    return np.cumsum(logs[::-1])[::-1][starts] - sizes * log_xmin, sizes


def bootstrap_known(
    tails: FittedTails, rule: Rule, count: int, random: np.random.Generator
) -> Array:
    """Return `(B,)` distances of replicates of the tail alone, for a fit with a known xmin."""
    n = len(tails.log_values) - int(tails.start[0])
    parts = []
    for which in _batches(count, 1, n):
        samples = np.sort(tails.draw_tails(which, n, random), axis=1)
        log_xmax, log_xmin = tails.log_xmax(which, samples), tails.log_xmin[which]
        span = None if log_xmax is None else (log_xmax - log_xmin)[:, None]
        parts.append(fit_known(samples - log_xmin[:, None], rule, span)[1])
    return np.concatenate(parts)


def fit_known(t: Array, rule: Rule, span: Array | None) -> tuple[Array, Array]:
    """Fit tails whose xmin is known.

    Args:
        t: `(B, n)` `log(x / xmin)`, each row ascending.
        rule: The rule by which tails are fitted and judged.
        span: `(B, 1)` `log(xmax / xmin)` if the law has an upper end.

    Returns:
        `(B,)` `alpha - 1` and `(B,)` distances.
    """
    n = t.shape[1]
    rate = rule.rate(t.sum(axis=1, keepdims=True), n, span)
    D = rule.deviation(law_cdf(rate, t, span), np.arange(n), n).max(axis=1)
    return rate[:, 0], D


def _batches(count: int, num_tails: int, n: int) -> Iterator[Index]:
    """Yield for each batch of replicates the indices of the tails from which they are drawn."""
    size = max(1, _VALUES_AT_A_TIME // n)
    for begin in range(0, count, size):
        yield np.arange(begin, min(begin + size, count)) % num_tails

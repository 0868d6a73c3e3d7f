"""The semi-parametric bootstrap of a fitted tail: its p-value, and how sure its xmin is.

A replicate of n values draws each from the fitted law above xmin with probability `n_tail / n`, and
otherwise one of the sample's values below xmin; it is then fitted as the sample was, search
included. A p-value is the share of replicates at least as far from their law as the sample is from
its own, `(1 + #{D* >= D}) / (1 + B)`: a level that holds for any B, and a bit larger than the plain
share of Clauset, Shalizi and Newman. Where xmin is known only the tail is drawn.

Replicates of the fit show how the search scatters about an xmin that is true; the fitted one may
not be. `second_round` draws as many again, each from the sample's tail at the xmin that a replicate
of the first round chose. Clauset's p-value has the first round alone, and is too often small where
a small sample's body goes over smoothly into its tail; that of both rounds is not.

References:
    Clauset, Shalizi & Newman (2009), SIAM Review 51(4), section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bayes_htr.tails.rules import ROUNDING, Array, Rule, law_cdf
from bayes_htr.tails.search import Index, search_xmin
from bayes_htr.tails.truncated import truncated_quantile

_TOGETHER = 30_000  # values of all replicates that are fitted at a time


@dataclass(frozen=True)
class Replicates:
    """What B replicates were fitted with.

    Attributes:
        log_xmin: `(B,)`.
        rate: `(B,)` `alpha - 1`; nan where a replicate has no tail to fit.
        D: `(B,)`; infinite there.
        n_tail: `(B,)` sizes of their tails.
    """

    log_xmin: Array
    rate: Array
    D: Array
    n_tail: Index

    def __add__(self, others: Replicates) -> Replicates:
        pairs = zip(vars(self).values(), vars(others).values(), strict=True)
        return Replicates(*(np.concatenate(pair) for pair in pairs))

    def p_value(self, D: float) -> float:
        """The probability of a distance as large as D if the fitted law were true."""
        return float((1 + np.sum(self.D >= D)) / (1 + len(self.D)))


@dataclass(frozen=True)
class Source:
    """Laws that replicates are drawn from, by turns: one sample with M tails.

    Attributes:
        log_values: `(n,)` the sample, ascending.
        start: `(M,)` indices of the first values of the tails.
        log_xmin: `(M,)` where they begin.
        rate: `(M,)` their `alpha - 1`.
        span: `(M,)` `log(xmax / xmin)` where the law has an upper end.
        free_xmax: Whether the upper end was fitted: replicates then have their own.
    """

    log_values: Array
    start: Index
    log_xmin: Array
    rate: Array
    span: Array | None = None
    free_xmax: bool = False

    @property
    def inside(self) -> int:
        """How many of the values lie below the upper end: all, where there is none."""
        if self.span is None:
            return len(self.log_values)
        end = self.log_xmin[0] + self.span[0]
        return int(np.searchsorted(self.log_values, end - ROUNDING))

    def whole(self, which: Index, random: np.random.Generator) -> Array:
        """`(R, n)` logarithms of replicates from R of the laws, ascending."""
        shape = (len(which), len(self.log_values))
        drawn = self.tail(which, shape[1], random)
        start = self.start[which][:, None]
        if start.any():
            body = self.log_values[(random.random(shape) * start).astype(np.intp)]
            drawn = np.where(random.random(shape) * shape[1] < start, body, drawn)
        drawn.sort(axis=1)
        return drawn

    def tail(self, which: Index, n: int, random: np.random.Generator) -> Array:
        """`(R, n)` logarithms of values from the tails of R of the laws."""
        shape = (len(which), n)
        log_xmin, rate = self.log_xmin[which][:, None], self.rate[which][:, None]
        if self.span is None:
            return log_xmin + random.standard_exponential(shape) / rate
        return log_xmin + truncated_quantile(rate, random.random(shape), self.span[which][:, None])

    def log_xmax(self, which: Index, drawn: Array) -> Array | None:
        """`(R,)` the upper ends that replicates are fitted with."""
        if self.span is None:
            return None
        return drawn[:, -1] if self.free_xmax else self.log_xmin[which] + self.span[which]


def bootstrap_searched(
    source: Source, rule: Rule, count: int, random: np.random.Generator
) -> Replicates:
    """Replicates of a fit whose xmin was searched."""
    n = len(source.log_values)
    parts = []
    for which in _turns(count, len(source.start), n):
        drawn = source.whole(which, random)
        tails = search_xmin(drawn, rule, source.log_xmax(which, drawn))
        log_xmin = drawn[np.arange(len(which)), tails.start]
        parts.append((log_xmin, tails.rate, tails.D, n - tails.start))
    return Replicates(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def second_round(
    source: Source, rule: Rule, first: Replicates, random: np.random.Generator
) -> Replicates:
    """Replicates from the sample's tails at the xmins that a first round chose.

    Args:
        source: The fit that the first round was drawn from.
        rule: How tails are fitted.
        first: The first round.
        random: The generator.
    """
    starts = chosen_starts(source, rule, first)
    return bootstrap_searched(at_starts(source, rule, starts), rule, len(first.D), random)


def chosen_starts(source: Source, rule: Rule, replicates: Replicates) -> Index:
    """`(B',)` where tails of the sample begin at the xmins of replicates.

    An xmin stands for the lowest value of the sample that is not below it. Replicates without a
    tail are left out.
    """
    logs = source.log_values
    last = min(len(logs) - rule.min_tail, int(np.searchsorted(logs, logs[source.inside - 1])) - 1)
    fitted = replicates.log_xmin[np.isfinite(replicates.D)]
    starts = np.minimum(np.searchsorted(logs, fitted - ROUNDING), last)
    return np.searchsorted(logs, logs[starts])  # the first of equal values


def at_starts(source: Source, rule: Rule, starts: Index) -> Source:
    """The sample with other tails of its own: from its values at `starts` on, `(M,)`."""
    logs = source.log_values
    log_xmin, sizes = logs[starts], len(logs) - starts
    excess = np.cumsum(logs[::-1])[::-1][starts] - sizes * log_xmin
    span = None if source.span is None else source.log_xmin[0] + source.span[0] - log_xmin
    rate = rule.rate(excess, sizes, span)
    return Source(logs, starts, log_xmin, rate, span, source.free_xmax)


def bootstrap_known(
    source: Source, rule: Rule, count: int, random: np.random.Generator
) -> Replicates:
    """Replicates of the tail alone, of a fit whose xmin was given."""
    n = len(source.log_values) - int(source.start[0])
    parts = []
    for which in _turns(count, 1, n):
        drawn = np.sort(source.tail(which, n, random), axis=1)
        ends = source.log_xmax(which, drawn)
        span = None if ends is None else (ends - source.log_xmin[which])[:, None]
        parts.append(fit_known(drawn - source.log_xmin[which][:, None], rule, span))
    rate, D = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Replicates(np.full(count, source.log_xmin[0]), rate, D, np.full(count, n))


def fit_known(t: Array, rule: Rule, span: Array | None) -> tuple[Array, Array]:
    """Exponent and distance of tails whose xmin is known.

    Args:
        t: `(B, n)` `log(x / xmin)`, ascending.
        rule: How they are fitted and judged.
        span: `(B, 1)` `log(xmax / xmin)` where there is an upper end.

    Returns:
        `(B,)` `alpha - 1` and `(B,)` distances.
    """
    n = t.shape[1]
    rate = rule.rate(t.sum(axis=1, keepdims=True), n, span)
    D = rule.deviation(law_cdf(rate, t, span), np.arange(n), n).max(axis=1)
    return rate[:, 0], D


def _turns(count: int, laws: int, n: int) -> Iterator[Index]:
    """Which law each replicate is drawn from, some replicates at a time."""
    most = max(1, _TOGETHER // n)
    for begin in range(0, count, most):
        yield np.arange(begin, min(begin + most, count)) % laws

"""The semi-parametric bootstrap of a fitted tail: its p-value, and how sure its xmin is.

A replicate of n values draws each from the fitted law above xmin with probability `n_tail / n`, and
otherwise one of the sample's values below xmin; it is then fitted as the sample was, search
included. The p-value is the share of replicates at least as far from their law as the sample is
from its own, `(1 + #{D* >= D}) / (1 + B)`: a level that holds for any B, and a bit larger than the
plain share of Clauset, Shalizi and Newman. Where xmin is known only the tail is drawn.

References:
    Clauset, Shalizi & Newman (2009), SIAM Review 51(4), section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bayes_htr.tails.rules import Array, Rule, law_cdf
from bayes_htr.tails.search import Index, search_xmin
from bayes_htr.tails.truncated import truncated_quantile

_TOGETHER = 100_000  # values of all replicates that are fitted at a time


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

    def p_value(self, D: float) -> float:
        """The probability of a distance as large as D if the fitted law were true."""
        return float((1 + np.sum(self.D >= D)) / (1 + len(self.D)))


@dataclass(frozen=True)
class Model:
    """The law that replicates are drawn from.

    Attributes:
        log_values: `(n,)` the sample, ascending.
        start: Index of the first value of the tail.
        log_xmin: Where the tail begins.
        rate: Its `alpha - 1`.
        span: `log(xmax / xmin)` where it has an upper end.
        free_xmax: Whether the upper end was fitted: replicates then have their own.
    """

    log_values: Array
    start: int
    log_xmin: float
    rate: float
    span: float | None = None
    free_xmax: bool = False

    def tail(self, shape: tuple[int, ...], random: np.random.Generator) -> Array:
        """Logarithms of values from the law of the tail."""
        if self.span is None:
            return self.log_xmin + random.standard_exponential(shape) / self.rate
        return self.log_xmin + truncated_quantile(self.rate, random.random(shape), self.span)

    def log_xmax(self, replicates: Array) -> Array | None:
        """`(B,)` the upper ends that replicates are fitted with."""
        if self.span is None:
            return None
        if self.free_xmax:
            return replicates[:, -1]
        return np.full(len(replicates), self.log_xmin + self.span)


def bootstrap_searched(
    model: Model, rule: Rule, count: int, random: np.random.Generator
) -> Replicates:
    """Replicates of a fit whose xmin was searched."""
    n = len(model.log_values)
    parts = []
    for size in _chunks(count, n):
        drawn = model.tail((size, n), random)
        if model.start:
            body = model.log_values[random.integers(0, model.start, (size, n))]
            drawn = np.where(random.random((size, n)) < model.start / n, body, drawn)
        drawn.sort(axis=1)
        tails = search_xmin(drawn, rule, model.log_xmax(drawn))
        log_xmin = drawn[np.arange(size), tails.start]
        parts.append((log_xmin, tails.rate, tails.D, n - tails.start))
    return Replicates(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def bootstrap_known(
    model: Model, rule: Rule, count: int, random: np.random.Generator
) -> Replicates:
    """Replicates of the tail alone, of a fit whose xmin was given."""
    n = len(model.log_values) - model.start
    parts = []
    for size in _chunks(count, n):
        drawn = np.sort(model.tail((size, n), random), axis=1)
        ends = model.log_xmax(drawn)
        span = None if ends is None else (ends - model.log_xmin)[:, None]
        rate, D = fit_known(drawn - model.log_xmin, rule, span)
        parts.append((rate, D))
    rate, D = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Replicates(np.full(count, model.log_xmin), rate, D, np.full(count, n))


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


def _chunks(count: int, n: int) -> Iterator[int]:
    most = max(1, _TOGETHER // n)
    while count > 0:
        yield min(most, count)
        count -= most

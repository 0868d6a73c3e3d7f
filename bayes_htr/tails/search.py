"""The lower end of a power-law tail: the exact search of Clauset, Shalizi and Newman, pruned.

For every candidate `xmin` the exponent is that of maximum likelihood on the values from it on, and
the candidate whose law lies closest to its tail in Kolmogorov-Smirnov distance wins. Done directly
this is `O(N^2)`. Here all exponents come from one reversed cumulative sum; the distance of each
candidate is bounded from below by its deviation at a few of its values; candidates are measured in
the order of their bounds, and each measured one shows a value at which all others are checked next,
for neighbours deviate most at the same value. The search ends when no bound is below the best
distance: the answer is that of the direct search, and a handful of candidates has been measured.

References:
    Clauset, Shalizi & Newman (2009), SIAM Review 51(4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_htr.tails.rules import ROUNDING, Array, Rule, law_cdf

Index = NDArray[np.intp]

_PROBES = (np.arange(12) + 0.5) / 12


@dataclass(frozen=True)
class Tails:
    """The tail that was chosen in each of B samples.

    Attributes:
        start: `(B,)` index of xmin among the ascending values.
        rate: `(B,)` `alpha - 1`; nan where a sample has no tail to fit.
        D: `(B,)` its distance; infinite where there is none.
        measured: How many distances were computed in full.
    """

    start: Index
    rate: Array
    D: Array
    measured: int


class Candidates:
    """Every possible tail of B samples of N values.

    Args:
        log_values: `(B, N)`, ascending along the last axis.
        rule: How tails are fitted and judged.
        log_xmax: `(B,)` where the law ends, if it does: not below any value.

    Attributes:
        starts: `(C,)` indices of the candidates among the values.
        own: `(B, C)` their values.
        sizes: `(C,)` sizes of their tails.
        rates: `(B, C)` their `alpha - 1`.
        valid: `(B, C)` whether a candidate is one: not a repeated value, and with an exponent.
    """

    def __init__(self, log_values: Array, rule: Rule, log_xmax: Array | None = None) -> None:
        self.values = log_values
        self.rule = rule
        N = log_values.shape[1]
        self.sizes = np.arange(N, rule.min_tail - 1, -1)
        self.starts = np.arange(len(self.sizes))
        own = self.own = log_values[:, : len(self.sizes)]
        sums = np.cumsum(log_values[:, ::-1], axis=1)[:, ::-1][:, : len(self.sizes)]
        self.spans = None if log_xmax is None else log_xmax[:, None] - own
        self.rates = rule.rate(sums - self.sizes * own, self.sizes, self.spans)
        self.valid = np.isfinite(self.rates)
        if log_xmax is not None and self.spans is not None:  # a value strictly between the ends
            inside = np.where(log_values < log_xmax[:, None] - ROUNDING, log_values, -np.inf)
            self.valid &= own < inside.max(axis=1, keepdims=True) - ROUNDING
            self.spans = np.where(self.valid, self.spans, 1.0)
        self.rates[~self.valid] = 1.0  # any number: no candidates
        self.valid[:, 1:] &= own[:, 1:] > own[:, :-1]  # a tail holds all of its equal values

    def probe(self, share: float) -> Array:
        """`(B, C)` deviations of all candidates at a share of the way up their own tails."""
        at = self.starts + (share * self.sizes).astype(np.intp)
        t = self.values[:, at] - self.own
        return self._deviation(self.rates, t, at - self.starts, self.sizes, self.spans)

    def at(self, rows: Index, at: Index) -> Array:
        """`(R, C)` deviations of all candidates of some samples at one value, 0 above it."""
        t = self.values[rows, at][:, None] - self.own[rows]
        order = at[:, None] - self.starts
        spans = None if self.spans is None else self.spans[rows]
        found = self._deviation(self.rates[rows], np.maximum(t, 0), order, self.sizes, spans)
        return np.where(order >= 0, found, 0.0)

    def measure(self, rows: Index, starts: Index) -> tuple[Array, Index]:
        """The distance of one candidate of each of some samples, and the value it is attained at.

        Args:
            rows: `(R,)` samples.
            starts: `(R,)` candidates.

        Returns:
            `(R,)` distances and `(R,)` indices of values.
        """
        values, own = self.values[rows], starts[:, None]
        first = int(starts.min())
        order = np.arange(first, values.shape[1]) - own
        t = np.maximum(values[:, first:] - np.take_along_axis(values, own, 1), 0)
        spans = None if self.spans is None else self.spans[rows, starts][:, None]
        rates = self.rates[rows, starts][:, None]
        found = self._deviation(rates, t, order, self.sizes[own], spans)
        found = np.where(order >= 0, found, 0.0)
        at = found.argmax(axis=1)
        return found[np.arange(len(rows)), at], at + first

    def _deviation(self, rates: Array, t: Array, order: Any, sizes: Any, spans: Any) -> Array:
        return self.rule.deviation(law_cdf(rates, t, spans), order, sizes)


def search_xmin(log_values: Array, rule: Rule, log_xmax: Array | None = None) -> Tails:
    """Choose the tail of each sample.

    Args:
        log_values: `(B, N)` logarithms, ascending along the last axis, `N >= rule.min_tail`.
        rule: How tails are fitted and judged.
        log_xmax: `(B,)` logarithm of a hard upper end, if the law has one.
    """
    candidates = Candidates(log_values, rule, log_xmax)
    bound = np.zeros(candidates.valid.shape)
    for share in _PROBES:
        np.maximum(bound, candidates.probe(share), out=bound)
    bound[~candidates.valid] = np.inf

    B = len(log_values)
    best, start = np.full(B, np.inf), np.zeros(B, dtype=np.intp)
    rows, measured = np.arange(B), 0
    while True:
        next_one = bound[rows].argmin(axis=1)
        least = bound[rows, next_one]
        going = least < best[rows]
        rows, next_one = rows[going], next_one[going]
        if not len(rows):
            break
        measured += len(rows)
        D, at = candidates.measure(rows, next_one)
        better = best[rows] > D
        best[rows[better]], start[rows[better]] = D[better], next_one[better]
        bound[rows] = np.maximum(bound[rows], candidates.at(rows, at))
        bound[rows, next_one] = np.inf
    rate = np.where(np.isfinite(best), candidates.rates[np.arange(B), start], np.nan)
    return Tails(start, rate, best, measured)

"""The lower end of a power-law tail: the exact search of Clauset, Shalizi and Newman, pruned.

For every candidate `xmin` the exponent is estimated by maximum likelihood from the values at or
above it. The search chooses the candidate whose law has the smallest Kolmogorov-Smirnov distance
from its tail. Computing every distance directly costs `O(N^2)`. Here

1. one reversed cumulative sum gives the exponents of all candidates;
2. the deviations at a few values of each candidate's tail bound its distance from below;
3. distances are computed in full in the order of these bounds, and each of them shows the value at
   which the bounds of all other candidates are raised next, because neighbouring tails deviate most
   at the same value.

The search ends when no bound lies below the smallest distance found. The answer is that of the
direct search, after a handful of full distances.

All computations use logarithms: in `t = log(x / xmin)` a power law is exponential with rate
`a = alpha - 1`, and no scale of the data overflows.

**A hard upper end** xmax is possible: the density is then proportional to `x^-alpha` on
`[xmin, xmax]`, straight on the log-log plot, and 0 above xmax. With `L = log(xmax / xmin)` the law
of t is exponential, cut off at L, and proper for every real `a`. The maximum-likelihood estimate of
xmax is the largest value, and that of `a` solves `mean(t) / L = g(a L)` with
`g(y) = 1/y - 1/(e^y - 1)`. What powerlaw and WeightWatcher call `truncated_power_law` is another
law, one of those in `alternatives`.

References:
    Clauset, Shalizi & Newman (2009), SIAM Review 51(4). Aban, Meerschaert & Panorska (2006),
    Journal of the American Statistical Association 101(473), on the upper end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayes_htr._checks import whole_number

Array = NDArray[np.float64]
Index = NDArray[np.intp]
Correction = Literal["none", "n-1", "n-2"]
KS = Literal["lower", "two-sided"]

ROUNDING = 1e-12
"""Two logarithms that differ by less than this count as equal."""

_SUBTRACTED = {"none": 0, "n-1": 1, "n-2": 2}
_NEWTON_STEPS = 60
_PROBES = (np.arange(12) + 0.5) / 12


@dataclass(frozen=True)
class Rule:
    """How the exponent of a tail is estimated, and how its distance from the law is measured.

    Attributes:
        ks: Whether D measures deviations of the law's distribution function from the lower end of
            each step of the empirical one (`"lower"`), or from both ends (`"two-sided"`, the usual
            statistic).
        min_tail: The smallest number of values that a searched tail may hold.
        correction: The factor of `alpha - 1` for a finite tail of n values: 1 (`"none"`),
            `(n-1)/n`, which is unbiased where xmin is known, or `(n-2)/n`, which is unbiased where
            xmin is one of the values.

    Raises:
        ValueError: A choice does not exist, or `min_tail` is too small for the correction.
    """

    ks: KS = "lower"
    min_tail: int = 2
    correction: Correction = "none"

    def __post_init__(self) -> None:
        if self.ks not in ("lower", "two-sided"):
            raise ValueError(f"ks={self.ks!r} must be 'lower' or 'two-sided'")
        if self.correction not in _SUBTRACTED:
            raise ValueError(f"correction={self.correction!r} must be 'none', 'n-1' or 'n-2'")
        whole_number(self.min_tail, "min_tail")
        least = max(2, 1 + _SUBTRACTED[self.correction])
        if self.min_tail < least:
            raise ValueError(
                f"min_tail={self.min_tail}: with correction={self.correction!r} a tail needs at "
                f"least {least} values"
            )

    def rate(self, excess: Any, n: Any, span: Any = None) -> Array:
        """Return the corrected maximum-likelihood estimate of `alpha - 1`.

        Args:
            excess: `sum log(x / xmin)` over a tail.
            n: The number of values in the tail.
            span: `log(xmax / xmin)` if the law has an upper end.

        Returns:
            Estimates of the arguments' broadcast shape, infinite or nan where all values of a tail
            are equal.
        """
        if span is not None:
            return truncated_rate(excess / n, span)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(excess > 0, (n - _SUBTRACTED[self.correction]) / excess, np.inf)

    def deviation(self, cdf: Array, rank: Any, n: Any) -> Array:
        """Return deviations of a law from the empirical distribution function of a tail.

        Args:
            cdf: The law's distribution function at the values.
            rank: The number of values of the tail below each of the values.
            n: The number of values in the tail.
        """
        lower = np.abs(cdf - rank / n)
        if self.ks == "lower":
            return lower
        return np.maximum(lower, np.abs((rank + 1) / n - cdf))


def law_cdf(rate: Any, t: Any, span: Any = None) -> Array:
    """Return `P(log(X / xmin) <= t)` of a power law.

    If `span` is given, the law ends where `log(X / xmin)` is `span`.
    """
    if span is None:
        return 1 - np.exp(-rate * t)  # several times as fast as expm1, and as exact as D needs
    return truncated_cdf(rate, t, span)


class ChosenTails(NamedTuple):
    """The tail that the search chose in each of B samples.

    Attributes:
        start: `(B,)` index of xmin among the ascending values.
        rate: `(B,)` `alpha - 1`; nan where a sample has no tail to fit.
        D: `(B,)` Kolmogorov-Smirnov distance; infinite where a sample has no tail to fit.
        computed: The number of distances that were computed in full.
    """

    start: Index
    rate: Array
    D: Array
    computed: int


class Candidates:
    """Every possible tail of B samples of N values.

    Args:
        log_values: `(B, N)` logarithms of the values, ascending along the last axis.
        rule: The rule by which tails are fitted and judged.
        log_xmax: `(B,)` logarithm of the law's upper end, if it has one; at least the largest
            value.

    Attributes:
        starts: `(C,)` indices of the candidates among the values.
        log_xmin: `(B, C)` logarithms of the candidates.
        sizes: `(C,)` sizes of their tails.
        rates: `(B, C)` their `alpha - 1`.
        valid: `(B, C)` whether a tail may begin there: at the first of equal values, and with a
            finite exponent.
    """

    def __init__(self, log_values: Array, rule: Rule, log_xmax: Array | None = None) -> None:
        self.log_values = log_values
        self.rule = rule
        N = log_values.shape[1]
        self.sizes = np.arange(N, rule.min_tail - 1, -1)
        self.starts = np.arange(len(self.sizes))
        log_xmin = self.log_xmin = log_values[:, : len(self.sizes)]
        sums = np.cumsum(log_values[:, ::-1], axis=1)[:, ::-1][:, : len(self.sizes)]
        self.spans = None if log_xmax is None else log_xmax[:, None] - log_xmin
        self.rates = rule.rate(sums - self.sizes * log_xmin, self.sizes, self.spans)
        self.valid = np.isfinite(self.rates)
        if log_xmax is not None and self.spans is not None:  # a value strictly between the ends
            inside = np.where(log_values < log_xmax[:, None] - ROUNDING, log_values, -np.inf)
            self.valid &= log_xmin < inside.max(axis=1, keepdims=True) - ROUNDING
            self.spans = np.where(self.valid, self.spans, 1.0)
        self.rates[~self.valid] = 1.0  # any number: these are no candidates
        self.valid[:, 1:] &= log_xmin[:, 1:] > log_xmin[:, :-1]

    def deviations_at_share(self, share: float) -> Array:
        """Return `(B, C)` deviations of all candidates.

        Each deviation is at this share of the way up the candidate's own tail.
        """
        places = self.starts + (share * self.sizes).astype(np.intp)
        t = self.log_values[:, places] - self.log_xmin
        cdf = law_cdf(self.rates, t, self.spans)
        return self.rule.deviation(cdf, places - self.starts, self.sizes)

    def deviations_at_value(self, rows: Index, places: Index) -> Array:
        """Return `(R, C)` deviations of all candidates at one value of each of R samples.

        Args:
            rows: `(R,)` samples.
            places: `(R,)` index of the value in each; candidates above it have deviation 0.
        """
        t = np.maximum(self.log_values[rows, places][:, None] - self.log_xmin[rows], 0)
        rank = places[:, None] - self.starts
        cdf = law_cdf(self.rates[rows], t, None if self.spans is None else self.spans[rows])
        return np.where(rank >= 0, self.rule.deviation(cdf, rank, self.sizes), 0.0)

    def distances(self, rows: Index, starts: Index) -> tuple[Array, Index]:
        """Return the full distance of one candidate of each of R samples.

        Args:
            rows: `(R,)` samples.
            starts: `(R,)` candidates.

        Returns:
            `(R,)` distances and `(R,)` indices of the values at which they are attained.
        """
        values, own = self.log_values[rows], starts[:, None]
        first = int(starts.min())
        rank = np.arange(first, values.shape[1]) - own
        t = np.maximum(values[:, first:] - np.take_along_axis(values, own, 1), 0)
        spans = None if self.spans is None else self.spans[rows, starts][:, None]
        cdf = law_cdf(self.rates[rows, starts][:, None], t, spans)
        deviations = np.where(rank >= 0, self.rule.deviation(cdf, rank, self.sizes[own]), 0.0)
        largest = deviations.argmax(axis=1)
        return deviations[np.arange(len(rows)), largest], largest + first


def search_xmin(log_values: Array, rule: Rule, log_xmax: Array | None = None) -> ChosenTails:
    """Choose the tail of each sample.

    Args:
        log_values: `(B, N)` logarithms, ascending along the last axis, with `N >= rule.min_tail`.
        rule: The rule by which tails are fitted and judged.
        log_xmax: `(B,)` logarithm of a hard upper end, if the law has one.
    """
    candidates = Candidates(log_values, rule, log_xmax)
    bound = np.zeros(candidates.valid.shape)
    for share in _PROBES:
        np.maximum(bound, candidates.deviations_at_share(share), out=bound)
    bound[~candidates.valid] = np.inf

    B = len(log_values)
    best, start = np.full(B, np.inf), np.zeros(B, dtype=np.intp)
    rows, computed = np.arange(B), 0
    while True:
        next_start = bound[rows].argmin(axis=1)
        unfinished = bound[rows, next_start] < best[rows]
        rows, next_start = rows[unfinished], next_start[unfinished]
        if not len(rows):
            break
        computed += len(rows)
        D, places = candidates.distances(rows, next_start)
        better = best[rows] > D
        best[rows[better]], start[rows[better]] = D[better], next_start[better]
        bound[rows] = np.maximum(bound[rows], candidates.deviations_at_value(rows, places))
        bound[rows, next_start] = np.inf
    rate = np.where(np.isfinite(best), candidates.rates[np.arange(B), start], np.nan)
    return ChosenTails(start, rate, best, computed)


# The law with an upper end


def truncated_rate(mean: Any, span: Any) -> Array:
    """Return the maximum-likelihood estimate of `alpha - 1`.

    Args:
        mean: The mean of `log(x / xmin)`, between 0 and `span`.
        span: `log(xmax / xmin)`, of a shape that broadcasts with `mean`.

    Returns:
        Estimates of the broadcast shape: negative where the density grows up to xmax, infinite
        where all values lie at one of the two ends.
    """
    mean, span = np.broadcast_arrays(np.asarray(mean, float), np.asarray(span, float))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = mean / span
    mirrored = ratio > 0.5  # g(-y) = 1 - g(y)
    r = np.where(mirrored, 1 - ratio, ratio)
    inside = r > 0
    r = np.where(inside, r, 0.25)
    y = 1 / r - 2  # g(y) >= 1 / (y + 2) and g is convex: Newton's steps rise to the root
    for _ in range(_NEWTON_STEPS):
        step = (_g(y) - r) / _g_slope(y)
        y = y + step
        if np.all(np.abs(step) <= 1e-15 * (1 + np.abs(y))):
            break
    y = np.where(inside, y, np.inf)
    rate: Array = np.where(mirrored, -y, y) / np.where(span > 0, span, 1.0)
    return rate


def truncated_cdf(rate: Any, t: Any, span: Any) -> Array:
    """Return `P(log(X / xmin) <= t)` for `0 <= t <= span`; at rate 0 this is `t / span`."""
    rate, t, span = np.broadcast_arrays(*(np.asarray(v, float) for v in (rate, t, span)))
    flat = np.abs(rate * span) < 1e-12
    falling = np.where(flat | (rate < 0), 1.0, rate)
    rising = np.where(rate < 0, -rate, 1.0)
    down = np.expm1(-falling * t) / np.expm1(-falling * span)
    up = np.exp(-rising * (span - t)) * np.expm1(-rising * t) / np.expm1(-rising * span)
    return np.where(flat, t / np.where(flat, span, 1.0), np.where(rate < 0, up, down))


def truncated_quantile(rate: Any, q: Any, span: Any) -> Array:
    """Return the inverse of `truncated_cdf` in `t`."""
    rate, q, span = np.broadcast_arrays(*(np.asarray(v, float) for v in (rate, q, span)))
    flat = np.abs(rate * span) < 1e-12
    a = np.where(flat, 1.0, np.abs(rate))
    tail = -np.expm1(-a * span)
    with np.errstate(divide="ignore"):  # the far end of a long span
        falling = np.minimum(-np.log1p(-q * tail) / a, span)
        rising = np.maximum(span + np.log1p(-(1 - q) * tail) / a, 0)
    return np.where(flat, q * span, np.where(rate < 0, rising, falling))


def log_normaliser(rate: Any, span: Any) -> Array:
    """Return `log int_0^span e^(-rate t) dt`."""
    y = np.asarray(rate * span, float)
    a = np.abs(y)
    small = a < 1e-8
    a = np.where(small, 1.0, a)
    grown = np.where(small, 0.0, np.log(-np.expm1(-a)) - np.log(a))
    return np.log(span) + grown + np.where(y < 0, a, 0.0) * ~small


def fisher_information(rate: Any, span: Any) -> Array:
    """Return the information of one value about its rate: the variance of `log(X / xmin)`."""
    return np.asarray(span**2 * _g_slope(np.abs(np.asarray(rate * span, float))))


def _g(y: Array) -> Array:
    """Return `1/y - 1/(e^y - 1)` for `y >= 0`, the mean of the law on [0, 1]."""
    small = y < 1e-2
    v = np.where(small, 1.0, y)
    series = 1 / 2 - y / 12 + y**3 / 720 - y**5 / 30240
    return np.where(small, series, 1 / v + np.exp(-v) / np.expm1(-v))


def _g_slope(y: Array) -> Array:
    """Return the negative derivative of `_g`, which is the variance of the law on [0, 1]."""
    small = y < 0.1
    v = np.where(small, 1.0, y)
    series = 1 / 12 - y**2 / 240 + y**4 / 6048 - y**6 / 172800
    direct = 1 / v**2 - np.exp(-v) / np.expm1(-v) ** 2
    return np.where(small, series, direct)

"""The power law of whole numbers, `P(X = x) = x^-alpha / zeta(alpha, xmin)` for `x >= xmin`.

A power law of real numbers does not describe counts: of values from 1 on with `alpha = 2.5` it
expects 35 % above 1, and the law of whole numbers 25 %, so that its estimate is far too large. Here
`zeta(s, q) = sum_{k >= 0} (q + k)^-s` is Hurwitz's zeta function. The maximum-likelihood estimate
solves `E log X = mean log x`, which has one solution since the law is an exponential family. The
distance D is the largest difference of the two distribution functions at any whole number, and xmin
is searched among the values of the sample as it is for real numbers. The posterior of `alpha - 1`
under Jeffreys' prior, the root of the Fisher information `Var log X`, is computed on a grid.

References:
    Clauset, Shalizi & Newman (2009), SIAM Review 51(4), equation 3.7 and appendices B and D.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.polynomial import Polynomial

from bayes_htr.tails.intervals import GridPosterior
from bayes_htr.tails.search import Array, Index

LARGEST_ALPHA = 100.0
"""Tails with a larger exponent are no candidates: nearly all of their values equal xmin."""

_DIRECT = 30  # terms of zeta that are summed before the Euler-Maclaurin formula takes over
_NEWTON_STEPS = 100
_PROBES = (np.arange(24) + 0.5) / 24
_TABLE = 4096  # quantiles of so many whole numbers are exact
_s = Polynomial([0.0, 1.0])
_EULER_MACLAURIN = (
    (Polynomial([0.5]), 0),
    (_s / 12, 1),
    (-_s * (_s + 1) * (_s + 2) / 720, 3),
    (_s * (_s + 1) * (_s + 2) * (_s + 3) * (_s + 4) / 30240, 5),
)
"""Coefficients of `x^-(s + m)`, as polynomials in s with their m."""


def log_moments(s: Array, q: Array) -> tuple[Array, Array, Array]:
    """Return `log(q^s zeta(s, q))`, and mean and variance of `log(X / q)` for the law from q on.

    Args:
        s: Exponents above 1.
        q: Lower ends, of a shape that broadcasts with `s`.
    """
    s, q = np.broadcast_arrays(np.asarray(s, float), np.asarray(q, float))
    t = np.log1p(np.arange(_DIRECT) / q[..., None])
    terms = np.exp(-s[..., None] * t)
    sums = [(terms * t**k).sum(axis=-1) for k in range(3)]
    a = q + _DIRECT
    L, r = np.log(a / q), 1 / (s - 1)
    rest = np.exp(-s * L)
    integral = a * r * rest  # of (x / q)^-s from a on
    sums[0] += integral
    sums[1] += integral * (L + r)
    sums[2] += integral * (L**2 + 2 * L * r + 2 * r**2)
    for polynomial, m in _EULER_MACLAURIN:
        P, dP, ddP = (polynomial.deriv(k)(s) if k else polynomial(s) for k in range(3))
        scale = rest / a**m
        sums[0] += scale * P
        sums[1] += scale * (P * L - dP)
        sums[2] += scale * (P * L**2 - 2 * dP * L + ddP)
    mean = sums[1] / sums[0]
    return np.log(sums[0]), mean, sums[2] / sums[0] - mean**2


def log_zeta(s: Array, x: Array) -> Array:
    """Return `log(x^s zeta(s, x))` alone, which is cheaper where x is large."""
    s, x = np.broadcast_arrays(np.asarray(s, float), np.asarray(x, float))
    far = x >= 8 * s + 20
    near_s, near_x = np.where(far, 2.0, s), np.where(far, 2.0, x)
    near = np.log(scipy.special.zeta(near_s, near_x)) + near_s * np.log(near_x)
    series = x / (s - 1) + sum(P(s) / x**m for P, m in _EULER_MACLAURIN)
    return np.where(far, np.log(series), near)


def survival(alpha: Array, x: Array, xmin: Array) -> Array:
    """Return `P(X >= x)` for whole numbers `x >= xmin`."""
    log_share = log_zeta(alpha, x) - log_zeta(alpha, xmin)
    return np.asarray(np.exp(log_share - alpha * np.log(x / xmin)))


def estimate(mean: Array, xmin: Array) -> Array:
    """Return the maximum-likelihood estimate of alpha.

    Args:
        mean: The mean of `log(x / xmin)` over a tail.
        xmin: The lower end of the tail.

    Returns:
        Estimates of the broadcast shape; infinite above `LARGEST_ALPHA`, and where all values of
        the tail are equal.
    """
    mean, xmin = np.broadcast_arrays(np.asarray(mean, float), np.asarray(xmin, float))
    inside = mean > log_moments(np.full(mean.shape, LARGEST_ALPHA), xmin)[1]
    target = np.where(inside, mean, 1.0)
    alpha = np.clip(1 + 1 / (target - np.log1p(-0.5 / xmin)), 1 + 1e-6, LARGEST_ALPHA)
    for _ in range(_NEWTON_STEPS):
        _, expected, variance = log_moments(alpha, xmin)
        # Newton's method for log E log X, a convex function: from below it rises to the root.
        step = np.log(expected / target) * expected / variance
        new = np.clip(alpha + step, 1 + (alpha - 1) / 4, LARGEST_ALPHA)
        done = np.all(np.abs(new - alpha) <= 1e-13 * alpha)
        alpha = new
        if done:
            break
    return np.where(inside, alpha, np.inf)


@dataclass(frozen=True)
class Counts:
    """A sample of whole numbers.

    Attributes:
        values: `(J,)` its values, ascending, each once.
        counts: `(J,)` how often each of them occurs.
    """

    values: Array
    counts: Array

    @classmethod
    def of(cls, sample: Array) -> Counts:
        """Count the values of a sample."""
        values, counts = np.unique(sample, return_counts=True)
        return cls(values, counts.astype(float))

    @property
    def sizes(self) -> Array:
        """`(J,)` how many values of the sample are at least as large as each value."""
        return np.asarray(self.counts[::-1].cumsum()[::-1])

    def rates(self) -> Array:
        """Return `(J,)` alpha of the tails that begin at each value.

        Alpha is infinite where a tail has no exponent.
        """
        logs = np.log(self.values)
        sums = (self.counts * logs)[::-1].cumsum()[::-1]
        return estimate(np.maximum(sums / self.sizes - logs, 0.0), self.values)

    def distance(self, start: int, alpha: float, xmin: float | None = None) -> float:
        """Return the distance D between a law and the tail that begins at value number `start`.

        The law has the given `alpha`. Between two of its values the sample's distribution function
        is level and the law's grows, so that D is found at a value, or just below the next one.
        """
        x, counts = self.values[start:], self.counts[start:]
        lower_end = x[0] if xmin is None else xmin
        above = np.concatenate([[1.0], 1 - counts.cumsum() / counts.sum()])
        below_next = survival(np.asarray(alpha), x, np.asarray(lower_end))
        at_value = survival(np.asarray(alpha), x + 1, np.asarray(lower_end))
        return float(max(np.abs(at_value - above[1:]).max(), np.abs(below_next - above[:-1]).max()))

    def fit_at(self, start: int, xmin: float) -> tuple[float, float]:
        """Return alpha and D of the tail from value number `start` on.

        The tail begins at a known xmin. Both are infinite where the tail has no exponent.
        """
        x, counts = self.values[start:], self.counts[start:]
        if not len(x):
            return math.inf, math.inf
        mean = float((counts * np.log(x / xmin)).sum() / counts.sum())
        alpha = float(estimate(np.asarray(mean), np.asarray(xmin)))
        return alpha, self.distance(start, alpha, xmin) if math.isfinite(alpha) else math.inf

    def search(self, min_tail: int) -> tuple[int, float, float]:
        """Return the tail with the smallest distance.

        Distances are computed in full in the order of a lower bound from a few values of each tail.

        Returns:
            The number of the value where it begins, alpha, and D; D is infinite without a tail.
        """
        alphas, sizes, J = self.rates(), self.sizes, len(self.values)
        starts = np.flatnonzero(np.isfinite(alphas) & (sizes >= min_tail))
        best = (0, math.inf, math.inf)
        if not len(starts):
            return best
        places = starts[:, None] + (_PROBES * (J - starts[:, None])).astype(np.intp)
        above = np.append(sizes[1:], 0.0)[places] / sizes[starts][:, None]
        law = survival(
            alphas[starts][:, None], self.values[places] + 1, self.values[starts][:, None]
        )
        bounds = np.abs(law - above).max(axis=1)
        for i in bounds.argsort(kind="stable").tolist():
            if bounds[i] >= best[2]:
                break
            start = int(starts[i])
            D = self.distance(start, float(alphas[start]))
            if (D, start) < (best[2], best[0]):
                best = (start, float(alphas[start]), D)
        return best


def draw(alpha: float, xmin: float, size: int, random: np.random.Generator) -> Array:
    """Return `(size,)` values of the law.

    Up to `xmin + 4096` they have the exact distribution; beyond, that of Clauset, Shalizi and
    Newman's rounding of a power law of real numbers, which differs from it by less than 1e-6.
    """
    table = xmin + np.arange(1.0, _TABLE + 1)
    above = survival(np.asarray(alpha), table, np.asarray(xmin))  # P(X >= xmin + 1), ...
    u = 1 - random.random(size)  # X >= x if u <= P(X >= x)
    steps = np.searchsorted(-above, -u, side="right").astype(float)
    beyond = steps == _TABLE
    end = table[-1]
    with np.errstate(over="ignore"):
        far = (end - 0.5) * (u[beyond] / above[-1]) ** (-1 / (alpha - 1)) + 0.5
    draws = xmin + steps
    draws[beyond] = np.floor(np.minimum(far, 1e300))
    return draws


@dataclass(frozen=True)
class Tails:
    """M tails of one sample of whole numbers, from which replicates are drawn in turn.

    Attributes:
        sample: `(n,)` the sample, ascending.
        start: `(M,)` index of the first value of each tail.
        xmin: `(M,)` where each tail begins.
    """

    sample: Array
    start: Index
    xmin: Array

    @property
    def sizes(self) -> Array:
        """`(M,)` how many values each tail holds."""
        return np.asarray(len(self.sample) - self.start, dtype=float)

    @property
    def means(self) -> Array:
        """`(M,)` means of `log(x / xmin)`."""
        sums = np.log(self.sample)[::-1].cumsum()[::-1]
        return np.asarray(np.maximum(sums[self.start] / self.sizes - np.log(self.xmin), 0.0))

    def at_xmins(self, xmins: Array, min_tail: int) -> Tails:
        """Return the tails of the same sample that begin at the xmins of replicates.

        A replicate's xmin stands for the lowest value of the sample that is not below it, or for
        the highest with enough values that are not all equal. Replicates without a tail, whose xmin
        is nan, are left out.
        """
        last = min(
            len(self.sample) - min_tail, int(np.searchsorted(self.sample, self.sample[-1])) - 1
        )
        places = np.searchsorted(self.sample, xmins[np.isfinite(xmins)])
        lower_ends = self.sample[np.minimum(places, last)]
        return Tails(self.sample, np.searchsorted(self.sample, lower_ends), lower_ends)

    def posterior(self) -> GridPosterior:
        """Return the posteriors of `alpha - 1` under Jeffreys' prior."""
        n, mean, xmin = (part[:, None] for part in (self.sizes, self.means, self.xmin))

        def log_density(rate: Array) -> Array:
            log_z, _, variance = log_moments(1 + rate, xmin)
            information = np.log(np.maximum(variance, 1e-300))
            return np.asarray(-n * (log_z + (1 + rate) * mean) + information / 2)

        mode = np.minimum(estimate(self.means, self.xmin), LARGEST_ALPHA) - 1
        sd = 1 / np.sqrt(self.sizes * log_moments(1 + mode, self.xmin)[2])
        return GridPosterior.on_log_scale(log_density, np.log(mode), sd / mode)

    def bootstrap_searched(
        self, min_tail: int, count: int, random: np.random.Generator
    ) -> tuple[Array, Array]:
        """Draw and fit replicates of a fit whose xmin was searched.

        Returns:
            `(B,)` xmins, and `(B,)` distances, which are nan and infinite where a replicate has no
            tail to fit.
        """
        alphas = np.minimum(estimate(self.means, self.xmin), LARGEST_ALPHA)
        xmins, distances = np.full(count, np.nan), np.full(count, np.inf)
        n = len(self.sample)
        for i in range(count):
            tail = i % len(self.start)
            start = int(self.start[tail])
            in_tail = int(random.binomial(n, (n - start) / n))
            body = self.sample[(random.random(n - in_tail) * start).astype(np.intp)]
            drawn = draw(float(alphas[tail]), float(self.xmin[tail]), in_tail, random)
            replicate = Counts.of(np.concatenate([body, drawn]))
            chosen, _, distances[i] = replicate.search(min_tail)
            if math.isfinite(distances[i]):
                xmins[i] = replicate.values[chosen]
        return xmins, distances

    def bootstrap_known(self, count: int, random: np.random.Generator) -> Array:
        """Return `(B,)` distances of replicates of the first tail alone.

        They are those of a fit with a known xmin.
        """
        alpha, xmin = float(estimate(self.means, self.xmin)[0]), float(self.xmin[0])
        samples = (draw(alpha, xmin, int(self.sizes[0]), random) for _ in range(count))
        return np.array([Counts.of(sample).fit_at(0, xmin)[1] for sample in samples])

"""Laws `e^(-b t - c s(t)) / Z(b, c)` of `t >= 0`: moments, and the fit of maximum likelihood.

At c = 0 the law is exponential in t, which is a power law in `x = xmin e^t`. The fit has moments
of t and s equal to the sample's; `-log` of the likelihood is convex in (b, c), and `log Z` has the
moments of the law for derivatives, so that Newton's method takes about six evaluations.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np

from bayes_htr.errors import SpectrumError
from bayes_htr.tails.rules import Array

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2  # of the interval from 0 to 1
_DROP = 45.0  # e^-45: where the integrand of Z is cut off
_STEPS = 50  # fourteen are the most that samples of all shapes have needed
_DONE = 1e-18  # the squared length of a Newton step, in standard deviations of one value
_BOUNDARY = 0.98  # how much of the way to c = 0 one step may go
_NARROWEST = 1e-10  # the variance of t over its squared mean
_NO_GAIN = 1e-17  # of the mean log likelihood


class Moments(NamedTuple):
    """`log Z` and the means, variances and covariance of t and s."""

    log_z: float
    t: float
    s: float
    tt: float
    ts: float
    ss: float


class Reach(NamedTuple):
    """The mode, and how far below and above it the density may exceed `e^-45` of its peak."""

    mode: float
    below: float
    above: float


class Fit(NamedTuple):
    """Parameters of maximum likelihood, and `log Z` of them."""

    b: float
    c: float
    log_z: float


class Family(ABC):
    """One choice of s, which is convex, with `s(t) ~ t^2 / 2` at 0."""

    @abstractmethod
    def s(self, t: Array) -> Array:
        """Of each t."""

    @abstractmethod
    def power_law_mean(self, b: float) -> float:
        """The mean of s at c = 0."""

    @abstractmethod
    def reach(self, b: float, c: float) -> Reach:
        """Where the law lives; `c > 0`."""

    def moments(self, b: float, c: float) -> Moments:
        """By Gauss-Legendre quadrature on both sides of the mode; `c > 0`."""
        mode, below, above = self.reach(b, c)
        starts = np.array([-below, 0.0, above / 16, above / 4])
        widths = np.array([below, above / 16, above * 3 / 16, above * 3 / 4])
        if below == 0:
            starts, widths = starts[1:], widths[1:]
        t = (mode + starts[:, None] + widths[:, None] * _NODES).ravel()
        s = self.s(t)
        exponent = -b * t - c * s
        peak = float(exponent.max())
        density = (widths[:, None] * _WEIGHTS).ravel() * np.exp(exponent - peak)
        total = float(density.sum())
        density /= total
        mean_t, mean_s = float((density * t).sum()), float((density * s).sum())
        t -= mean_t
        s -= mean_s
        tt, ts, ss = (float((density * x).sum()) for x in (t * t, t * s, s * s))
        return Moments(peak + math.log(total), mean_t, mean_s, tt, ts, ss)

    def fit(self, t: Array) -> Fit | None:
        """The law of maximum likelihood of a sample; `None` where that is at c = 0.

        Newton's method, with steps cut down until they lead down and leave c positive.

        Raises:
            SpectrumError: All values are equal, so that the likelihood has no largest value.
        """
        mean_t, s = float(t.mean()), self.s(t)
        mean_s = float(s.mean())
        if float(t.var()) < _NARROWEST * mean_t**2:
            raise SpectrumError(
                f"the {len(t)} values of the tail all lie {math.exp(mean_t):.6g} times above its "
                "lower end, so that no law of two parameters can be fitted; take that value for "
                "xmin, and a larger tail"
            )
        excess = self.power_law_mean(1 / mean_t) - mean_s
        if not excess > 0:  # the likelihood falls from c = 0 on
            return None
        smallest_c = max(_NO_GAIN / excess, 1e-20 / float(s.max()))
        b, c = _start(mean_t, mean_s, excess, float(s.max()))
        law = self.moments(b, c)
        for _ in range(_STEPS):
            step_b, step_c, decrement = _newton(law, mean_t - law.t, mean_s - law.s)
            if decrement < _DONE:
                break
            loss = b * mean_t + c * mean_s + law.log_z
            share = min(1.0, _BOUNDARY * c / -step_c) if step_c < 0 else 1.0
            while True:
                new_b, new_c = b + share * step_b, c + share * step_c
                if new_c < smallest_c:
                    return None
                new = self.moments(new_b, new_c)
                gain = loss - (new_b * mean_t + new_c * mean_s + new.log_z)
                if gain >= share * decrement / 10 - 1e-14 * (1 + abs(loss)):
                    break
                share /= 3
            b, c, law = new_b, new_c, new
        if b * mean_t + c * mean_s + law.log_z >= 1 + math.log(mean_t):
            return None  # no better than the power law to working accuracy
        return Fit(b, c, law.log_z)


class HalfSquare(Family):
    """`s(t) = t^2 / 2`: a normal law of t, cut off at 0."""

    def s(self, t: Array) -> Array:
        """Of each t."""
        return t * t / 2

    def power_law_mean(self, b: float) -> float:
        """The mean of s at c = 0."""
        return 1 / b**2

    def reach(self, b: float, c: float) -> Reach:
        """Roots of a square."""
        mode, slope = max(0.0, -b / c), max(0.0, b)
        above = 2 * _DROP / (slope + math.sqrt(slope**2 + 2 * c * _DROP))
        return Reach(mode, min(mode, above), above)


class Excess(Family):
    """`s(t) = e^t - 1 - t`: a power law of `e^t` times an exponential."""

    def s(self, t: Array) -> Array:
        """Of each t, by its series where the difference would lose digits."""
        small = np.minimum(t, 0.01)
        series = np.ones_like(t)
        for k in range(7, 2, -1):
            series = 1 + small / k * series
        with np.errstate(over="ignore"):  # infinite where e^t leaves the floating-point numbers
            return np.where(t < 0.01, t * t / 2 * series, np.expm1(t) - t)

    def power_law_mean(self, b: float) -> float:
        """The mean of s at c = 0."""
        return 1 / (b * (b - 1)) if b > 1 else math.inf

    def reach(self, b: float, c: float) -> Reach:
        """Bounds, of which each follows from one term of the exponent alone.

        At a distance u from its mode the exponent has fallen by `k (e^u - 1 - u)`, by `b u` more
        where the mode is 0. `e^u - 1 - u` is at least `u^2 / 2`, and `e^u / 2` from u = 1.7 on;
        `e^-u - 1 + u` is at least `u - 1`, and `u^2 / e` up to u = 1.
        """
        mode, k = (math.log1p(-b / c), c - b) if b < 0 else (0.0, c)
        above = min(math.sqrt(2 * _DROP / k), max(1.7, math.log(2 * _DROP / k)))
        if b > 0:
            above = min(above, _DROP / b)
        below = _DROP / k + 1 if k < math.e * _DROP else math.sqrt(math.e * _DROP / k)
        return Reach(mode, min(mode, below), above)


def _start(mean_t: float, mean_s: float, excess: float, largest_s: float) -> tuple[float, float]:
    """`(b, c)` close to the fit.

    One Newton step from c = 0 leads to `c = excess / mean_t^4` for `s = t^2 / 2`, and about there
    for the other s where t is small. As the squared coefficient of variation v falls from 1 to 0,
    c rises to `1 / (v mean_t^2)`: the factor below joins the two. b is then such that
    `E[t (b + c t)] = 1`, as it is (by parts) for `s = t^2 / 2`.
    """
    v = 2 * mean_s / mean_t**2 - 1
    if v < 0.998:
        c = (1 - v) / (v * (1 + v)) / mean_t**2
        return (1 - 2 * c * mean_s) / mean_t, c
    return 1 / mean_t, min(excess / mean_t**4, 1 / largest_s)


def _newton(law: Moments, slope_b: float, slope_c: float) -> tuple[float, float, float]:
    """Newton's step, and its length squared in the metric of the second derivatives."""
    determinant = law.tt * law.ss - law.ts**2
    step_b = (law.ts * slope_c - law.ss * slope_b) / determinant
    step_c = (law.ts * slope_b - law.tt * slope_c) / determinant
    return step_b, step_c, -(slope_b * step_b + slope_c * step_c)

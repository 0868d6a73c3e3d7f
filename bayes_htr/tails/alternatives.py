"""Likelihood ratios of a power-law tail to other laws of the same tail.

In `t = log(x / xmin)` a power law has density `b e^(-b t)` with `b = alpha - 1`, and each
alternative, cut off below xmin, has density `e^(-b t - c s(t)) / Z(b, c)`:

| alternative | s(t) | its own parameters |
|---|---|---|
| lognormal | `t^2 / 2` | `sigma^2 = 1/c`, `mu = log xmin - b/c` |
| truncated power law | `e^t - 1 - t` | `alpha = 1 + b - c`, `Lambda = c / xmin` |
| exponential | `e^t - 1 - t`, with b = c - 1 | `Lambda = c / xmin` |

The stretched exponential law has `P(X >= x)` proportional to `e^(-(Lambda x)^beta)` for
`x >= xmin`. With `c = (Lambda xmin)^beta` its density in t is
`beta c e^(beta t) e^(-c (e^(beta t) - 1))`, and the power law is its limit as beta falls to 0 with
`beta c = b`. Given beta, the best c is `1 / mean(e^(beta t) - 1)`; the likelihood is then concave
in beta.

The truncated power law is `x^-alpha e^(-Lambda x)`. One maximum-likelihood fit of `(b, c)`
(`TwoParameterFamily.fit`) serves the first two. The power law is their limit at c = 0. Where the
likelihood is largest at c = 0, they fit no better than the power law.

Vuong's statistic divides the sum of the log ratios by their scatter, and its two-sided p-value is
that of a normal law. It is meant for two laws of which neither contains the other. For the
lognormal, the stretched exponential and the truncated power law, which contain the power law, the
p-value comes from the law of the ratio itself, with c or beta at the end of its range if the power
law holds. For the first two, twice the ratio is then 0 with probability one half, and otherwise
chi-squared with one degree of freedom.
For the truncated power law this holds only for large samples and alpha of at least 3, where `e^t`
has a variance; as alpha falls to 2, where `e^t` loses its mean, c is no longer 0, and twice the
ratio is always chi-squared. The p-value here, as in powerlaw, is that of the chi-squared law for
every alpha. For power laws of 50 to 300 values with alpha from 1.4 to 4, it is at most 0.1 in 7 to
14 % of samples; half of it would be at most 0.1 in 11 to 25 %.

References:
    Vuong (1989), Econometrica 57(2). Chernoff (1954), Annals of Mathematical Statistics 25(3), on
    the ratio at the end of a range. Clauset, Shalizi & Newman (2009), SIAM Review 51(4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy

from bayes_htr.errors import SpectrumError
from bayes_htr.tails.search import Array

LAW_NAMES = {
    "lognormal": "a lognormal",
    "exponential": "an exponential",
    "truncated_power_law": "a power law with an exponential cut-off",
    "stretched_exponential": "a stretched exponential",
}
"""The alternatives, each with the words that sentences use for it."""

PARAMETERS = {
    "lognormal": ("mu", "sigma"),
    "exponential": ("Lambda",),
    "truncated_power_law": ("alpha", "Lambda"),
    "stretched_exponential": ("beta", "Lambda"),
}
"""The names of each alternative's own parameters."""

ALTERNATIVES = tuple(PARAMETERS)

_AT_AN_END = ("lognormal", "stretched_exponential")
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2  # on the interval from 0 to 1
_DROP = 45.0  # the integrand of Z is cut off where it has fallen to e^-45 of its peak
_STEPS = 50  # samples of all shapes have needed at most fourteen
_CONVERGED = 1e-18  # the squared length of a Newton step, in standard deviations of one value
_BOUNDARY = 0.98  # how much of the way to c = 0 one step may go
_NARROWEST = 1e-10  # the smallest variance of t over its squared mean
_NO_GAIN = 1e-17  # of the mean log likelihood


@dataclass(frozen=True)
class Comparison:
    """A power law compared with an alternative on the same tail.

    Attributes:
        name: The alternative.
        parameters: The alternative's own parameters, fitted by maximum likelihood; empty if the
            best fit of the alternative is the power law itself.
        ratio: The sum of the log likelihood ratios, positive if the power law fits better.
        normalised: Vuong's statistic: the ratio divided by `sqrt(n)` standard deviations of its
            summands; 0 where the two laws are equal.
        vuong_p: The two-sided probability of so large a normalised ratio if both laws fit equally
            well.
        nested_p: For an alternative that contains the power law, the probability of so small a
            ratio if the power law holds; `None` for the exponential.
    """

    name: str
    parameters: dict[str, float]
    ratio: float
    normalised: float
    vuong_p: float
    nested_p: float | None

    @property
    def p_value(self) -> float:
        """`nested_p` for an alternative that contains the power law, otherwise `vuong_p`."""
        return self.vuong_p if self.nested_p is None else self.nested_p

    @property
    def favours(self) -> str:
        """The name of the law that is favoured at the 10 % level, `"power_law"` or `"neither"`."""
        if self.p_value > 0.1:
            return "neither"
        return "power_law" if self.ratio > 0 else self.name


def compare(t: Array, xmin: float, name: str) -> Comparison:
    """Compare the power law with an alternative.

    Args:
        t: `(n,)` `log(x / xmin)` of a tail.
        xmin: The lower end of the tail.
        name: One of `ALTERNATIVES`.

    Raises:
        SpectrumError: All values of the tail are equal, and lie above xmin.
        ValueError: `name` is not one of `ALTERNATIVES`.
    """
    if name not in ALTERNATIVES:
        raise ValueError(f"{name!r} is no alternative; there are {', '.join(ALTERNATIVES)}")
    rate = len(t) / float(t.sum())
    power_law = math.log(rate) - rate * t
    if name == "exponential":
        c = 1 / float(np.expm1(t).mean())
        alternative = math.log(c) + t - c * np.expm1(t)
        return _comparison(name, {"Lambda": c / xmin}, power_law - alternative)
    if name == "stretched_exponential":
        beta = _stretched_exponential(t)
        if beta is None:
            return Comparison(name, {}, 0.0, 0.0, 1.0, 1.0)
        c = 1 / float(np.expm1(beta * t).mean())
        alternative = math.log(beta * c) + beta * t - c * np.expm1(beta * t)
        log_scale = math.log(c) / beta - math.log(xmin)
        parameters = {"beta": beta, "Lambda": math.exp(log_scale) if log_scale < 700 else math.inf}
        return _comparison(name, parameters, power_law - alternative)
    family = LOGNORMAL if name == "lognormal" else TRUNCATED_POWER_LAW
    fitted = family.fit(t)
    if fitted is None:
        return Comparison(name, {}, 0.0, 0.0, 1.0, 1.0)
    b, c, log_z = fitted
    if name == "lognormal":
        parameters = {"mu": math.log(xmin) - b / c, "sigma": c**-0.5}
    else:
        parameters = {"alpha": b - c + 1, "Lambda": c / xmin}
    alternative = -b * t - c * family.s(t) - log_z
    return _comparison(name, parameters, power_law - alternative)


def _check_spread(t: Array) -> None:
    mean = float(t.mean())
    if float(t.var()) < _NARROWEST * mean**2:
        raise SpectrumError(
            f"the {len(t)} values of the tail all lie {math.exp(mean):.6g} times above its lower "
            "end, so that no law of two parameters can be fitted; take that value for xmin, and a "
            "larger tail"
        )


def _stretched_exponential(t: Array) -> float | None:
    """Return the maximum-likelihood estimate of beta.

    It is `None` where the power law fits as well.
    """
    _check_spread(t)
    mean, largest = float(t.mean()), float(t.max())
    if not float((t * t).mean()) < 2 * mean**2:  # the likelihood decreases from beta = 0 on
        return None

    def slope(beta: float) -> float:
        weights = np.exp(beta * (t - largest))
        mean_excess = float(weights.mean()) - math.exp(-beta * largest)
        return 1 / beta + mean - float((t * weights).mean()) / mean_excess

    low, high = 1e-6 / mean, 1 / mean
    if not slope(low) > 0:
        return None  # no better than the power law to working accuracy
    while slope(high) > 0:
        high *= 2
    return float(scipy.optimize.brentq(slope, low, high, xtol=1e-12 / mean, rtol=1e-12))


def best_alternative(comparisons: Sequence[Comparison]) -> Comparison | None:
    """Return the comparison whose alternative fits best.

    Only alternatives that are favoured over the power law count; without any, it is `None`.
    """
    favoured = [c for c in comparisons if c.favours == c.name]
    return min(favoured, key=lambda c: c.ratio) if favoured else None


def _comparison(name: str, parameters: dict[str, float], ratios: Array) -> Comparison:
    ratio, scatter = float(ratios.sum()), float(ratios.std())
    normalised = ratio / (math.sqrt(len(ratios)) * scatter) if scatter > 0 else 0.0
    nested_p = None
    if name != "exponential":
        share = 0.5 if name in _AT_AN_END and ratio < 0 else 1.0
        nested_p = share * float(scipy.stats.chi2.sf(max(0.0, -2 * ratio), 1))
    return Comparison(
        name,
        {key: float(value) for key, value in parameters.items()},
        ratio,
        normalised,
        float(scipy.special.erfc(abs(normalised) / math.sqrt(2))),
        nested_p,
    )


class Moments(NamedTuple):
    """`log Z`, and the means, variances and covariance of t and s."""

    log_z: float
    t: float
    s: float
    tt: float
    ts: float
    ss: float


@dataclass(frozen=True)
class TwoParameterFamily:
    """The laws `e^(-b t - c s(t)) / Z(b, c)` of `t >= 0` for one choice of s.

    At c = 0 the law is exponential in t, which is a power law in `x = xmin e^t`.

    Attributes:
        s: A convex function with `s(t) ~ t^2 / 2` at 0.
        power_law_mean: The mean of s at c = 0, as a function of b.
        reach: For `c > 0`, the mode, and how far below and above it the density may exceed `e^-45`
            of its peak, as a function of b and c.
    """

    s: Callable[[Array], Array]
    power_law_mean: Callable[[float], float]
    reach: Callable[[float, float], tuple[float, float, float]]

    def moments(self, b: float, c: float) -> Moments:
        """Return the moments for `c > 0`.

        They are computed by Gauss-Legendre quadrature on both sides of the mode.
        """
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

    def fit(self, t: Array) -> tuple[float, float, float] | None:
        """Fit the law to a sample by maximum likelihood.

        At the maximum the moments of t and s equal those of the sample. The negative log likelihood
        is convex in (b, c), and the derivatives of `log Z` are moments of the law, so that Newton's
        method takes about six evaluations. Steps are shortened until they decrease the loss and
        leave c positive.

        Returns:
            `b`, `c` and `log Z(b, c)`, or `None` where the likelihood is largest at c = 0.

        Raises:
            SpectrumError: All values are equal, so that the likelihood has no maximum.
        """
        mean_t, s = float(t.mean()), self.s(t)
        mean_s = float(s.mean())
        _check_spread(t)
        excess = self.power_law_mean(1 / mean_t) - mean_s
        if not excess > 0:  # the likelihood decreases from c = 0 on
            return None
        smallest_c = max(_NO_GAIN / excess, 1e-20 / float(s.max()))
        b, c = _start(mean_t, mean_s, excess, float(s.max()))
        law = self.moments(b, c)
        for _ in range(_STEPS):
            step_b, step_c, decrement = _newton_step(law, mean_t - law.t, mean_s - law.s)
            if decrement < _CONVERGED:
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
        return b, c, law.log_z


def _lognormal_reach(b: float, c: float) -> tuple[float, float, float]:
    """Solve the quadratic equation for the distance at which the density has fallen."""
    mode, slope = max(0.0, -b / c), max(0.0, b)
    above = 2 * _DROP / (slope + math.sqrt(slope**2 + 2 * c * _DROP))
    return mode, min(mode, above), above


def _exp_remainder(t: Array) -> Array:
    """Return `e^t - 1 - t`, by its series where the difference would lose digits."""
    small = np.minimum(t, 0.01)
    series = np.ones_like(t)
    for k in range(7, 2, -1):
        series = 1 + small / k * series
    with np.errstate(over="ignore"):  # infinite where e^t exceeds the floating-point range
        return np.where(t < 0.01, t * t / 2 * series, np.expm1(t) - t)


def _truncated_reach(b: float, c: float) -> tuple[float, float, float]:
    """Bound the distances, each by one term of the exponent alone.

    At a distance u from its mode the exponent has fallen by `k (e^u - 1 - u)`, and by `b u` more
    where the mode is 0. The remainder `e^u - 1 - u` is at least `u^2 / 2`, and at least `e^u / 2`
    from u = 1.7 on; `e^-u - 1 + u` is at least `u - 1`, and at least `u^2 / e` up to u = 1.
    """
    mode, k = (math.log1p(-b / c), c - b) if b < 0 else (0.0, c)
    above = min(math.sqrt(2 * _DROP / k), max(1.7, math.log(2 * _DROP / k)))
    if b > 0:
        above = min(above, _DROP / b)
    below = _DROP / k + 1 if k < math.e * _DROP else math.sqrt(math.e * _DROP / k)
    return mode, min(mode, below), above


LOGNORMAL = TwoParameterFamily(lambda t: t * t / 2, lambda b: 1 / b**2, _lognormal_reach)
"""A normal law of t, cut off at 0."""

TRUNCATED_POWER_LAW = TwoParameterFamily(
    _exp_remainder, lambda b: 1 / (b * (b - 1)) if b > 1 else math.inf, _truncated_reach
)
"""A power law of `e^t` times an exponential."""


def _start(mean_t: float, mean_s: float, excess: float, largest_s: float) -> tuple[float, float]:
    """Return `(b, c)` close to the fit.

    One Newton step from c = 0 leads to `c = excess / mean_t^4` for `s = t^2 / 2`, and close to it
    for the other s where t is small. As the squared coefficient of variation v falls from 1 to 0, c
    rises to `1 / (v mean_t^2)`; the factor below joins the two. Then b is chosen such that
    `E[t (b + c t)] = 1`, as it is (by parts) for `s = t^2 / 2`.
    """
    v = 2 * mean_s / mean_t**2 - 1
    if v < 0.998:
        c = (1 - v) / (v * (1 + v)) / mean_t**2
        return (1 - 2 * c * mean_s) / mean_t, c
    return 1 / mean_t, min(excess / mean_t**4, 1 / largest_s)


def _newton_step(law: Moments, slope_b: float, slope_c: float) -> tuple[float, float, float]:
    """Return Newton's step in b and c, and its squared length.

    The length is in the metric of the second derivatives.
    """
    determinant = law.tt * law.ss - law.ts**2
    step_b = (law.ts * slope_c - law.ss * slope_b) / determinant
    step_c = (law.ts * slope_b - law.tt * slope_c) / determinant
    return step_b, step_c, -(slope_b * step_b + slope_c * step_c)

"""Likelihood ratios of a power-law tail to other laws of the same tail.

In `t = log(x / xmin)` a power law has density `b e^(-b t)`, `b = alpha - 1`, and each alternative,
cut off below xmin, is `e^(-b t - c s(t)) / Z(b, c)`:

| alternative | s(t) | in its own parameters |
|---|---|---|
| lognormal | `t^2 / 2` | `sigma^2 = 1/c`, `mu = log xmin - b/c` |
| truncated power law | `e^t - 1 - t` | `alpha = 1 + b - c`, `Lambda = c / xmin` |
| exponential | `e^t - 1 - t`, with b = c - 1 | `Lambda = c / xmin` |

(the truncated power law is `x^-alpha e^(-Lambda x)`), so that one fit of maximum likelihood
(`exponential_family`) serves the first two; the power law is their limit at c = 0. Where the
likelihood is largest at c = 0 they fit no better than it.

Vuong's statistic normalises the sum of the log ratios by their scatter; its p-value is that of a
normal law, two-sided. It is meant for laws of which neither contains the other. For the lognormal
and the truncated power law the ratio's own law is taken instead. If the power law holds, c sits at
the end of its range. For the lognormal twice the ratio is then 0 half of the time and chi-squared
with one degree of freedom otherwise. For the truncated power law that is so only where `e^t` has a
variance, from alpha = 3 on, and for large samples; as alpha falls to 2, where `e^t` loses its mean,
c ceases to be 0, and twice the ratio is chi-squared throughout. That is its p-value here for any
alpha (powerlaw's too): of power laws of 50 to 300 values with alpha from 1.4 to 4 it is at most 0.1
for 7 to 14 %, where half of it would be for 11 to 25 %.

References:
    Vuong (1989), Econometrica 57(2). Chernoff (1954), Annals of Mathematical Statistics 25(3), on
    the ratio at the end of a range. Clauset, Shalizi & Newman (2009), SIAM Review 51(4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from bayes_htr.tails.exponential_family import Excess, HalfSquare
from bayes_htr.tails.rules import Array

LAW_NAMES = {
    "lognormal": "a lognormal",
    "exponential": "an exponential",
    "truncated_power_law": "a power law with an exponential cut-off",
}
"""The alternatives, and what sentences call them."""

ALTERNATIVES = tuple(LAW_NAMES)

_LOGNORMAL, _TRUNCATED_POWER_LAW = HalfSquare(), Excess()


@dataclass(frozen=True)
class Comparison:
    """A power law against an alternative on one tail.

    Attributes:
        name: The alternative.
        parameters: Its own, of maximum likelihood; empty where it fits best as the power law.
        ratio: Sum of the log likelihood ratios: positive for the power law.
        normalised: The ratio by `sqrt(n)` standard deviations of its summands (Vuong); 0 where the
            two laws are one.
        vuong_p: Two-sided probability of so large a normalised ratio where both laws fit alike.
        nested_p: Probability of so small a ratio if the power law holds, for an alternative that
            contains it; `None` for the exponential.
    """

    name: str
    parameters: dict[str, float]
    ratio: float
    normalised: float
    vuong_p: float
    nested_p: float | None

    @property
    def favours(self) -> str:
        """The law that is favoured at the 10 % level: its name, `"power_law"`, or `"neither"`."""
        p = self.vuong_p if self.nested_p is None else self.nested_p
        if p > 0.1:
            return "neither"
        return "power_law" if self.ratio > 0 else self.name


def compare(t: Array, xmin: float, name: str) -> Comparison:
    """Compare the power law with an alternative.

    Args:
        t: `(n,)` `log(x / xmin)` of a tail.
        xmin: Where it begins.
        name: One of `ALTERNATIVES`.

    Raises:
        SpectrumError: All values of the tail are equal.
        ValueError: Another name.
    """
    if name not in ALTERNATIVES:
        raise ValueError(f"{name!r} is no alternative; there are {', '.join(ALTERNATIVES)}")
    rate = len(t) / float(t.sum())
    power = math.log(rate) - rate * t
    if name == "exponential":
        c = 1 / float(np.expm1(t).mean())
        other = math.log(c) + t - c * np.expm1(t)
        return _judge(name, {"Lambda": c / xmin}, power - other, nested=False)
    family = _LOGNORMAL if name == "lognormal" else _TRUNCATED_POWER_LAW
    found = family.fit(t)
    if found is None:
        return Comparison(name, {}, 0.0, 0.0, 1.0, 1.0)
    b, c, log_z = found
    if name == "lognormal":
        parameters = {"mu": math.log(xmin) - b / c, "sigma": c**-0.5}
    else:
        parameters = {"alpha": b - c + 1, "Lambda": c / xmin}
    other = -b * t - c * family.s(t) - log_z
    return _judge(name, parameters, power - other, nested=True)


def favoured(comparisons: Sequence[Comparison]) -> Comparison | None:
    """That with the alternative which fits best, of those that fit better than the power law."""
    better = [c for c in comparisons if c.favours == c.name]
    return min(better, key=lambda c: c.ratio) if better else None


def _judge(name: str, parameters: dict[str, float], ratios: Array, *, nested: bool) -> Comparison:
    ratio, scatter = float(ratios.sum()), float(ratios.std())
    normalised = ratio / (math.sqrt(len(ratios)) * scatter) if scatter > 0 else 0.0
    nested_p = None
    if nested:
        share = 0.5 if name == "lognormal" and ratio < 0 else 1.0
        nested_p = share * float(scipy.stats.chi2.sf(max(0.0, -2 * ratio), 1))
    return Comparison(
        name,
        {key: float(value) for key, value in parameters.items()},
        ratio,
        normalised,
        float(scipy.special.erfc(abs(normalised) / math.sqrt(2))),
        nested_p,
    )

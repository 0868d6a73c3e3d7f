"""Normalised powers of laws, from which priors with a strength other than 1 are simulated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyro.distributions as dist
import torch
from torch.distributions import AffineTransform, PowerTransform

from bayes_htr.errors import PriorError
from bayes_htr.priors.common_laws import Exponential, Gamma, HalfCauchy, LogNormal, Normal
from bayes_htr.priors.heavy_tailed_laws import Frechet, Lomax, Powerlaw, TruncatedPowerlaw
from bayes_htr.priors.law import Law


def tempered(law: Law, strength: float) -> Law:
    """Return the law with the normalised density `p^strength`.

    Args:
        law: A law whose arguments are numbers.
        strength: Positive.

    Raises:
        PriorError: `p^strength` has no finite integral, or does not belong to a known family.
    """
    if strength == 1:
        return law
    if not law.is_proper(strength):
        raise PriorError(f"{law!r} at strength {strength:g} has no finite integral")
    s = strength
    match law:
        case Powerlaw(alpha=float(a)) | Lomax(alpha=float(a)) | TruncatedPowerlaw(alpha=float(a)):
            return replace(law, alpha=a * s)
        case Exponential(rate=float(rate)):
            return Exponential(rate * s)
        case Normal(loc=float(loc), scale=float(scale)):
            return Normal(loc, scale / s**0.5)
        case Gamma(concentration=float(c), rate=float(rate)):
            return Gamma((c - 1.0) * s + 1.0, rate * s)
        case LogNormal(loc=float(loc), scale=float(scale)):
            return LogNormal(loc + scale**2 * (1.0 - s) / s, scale / s**0.5)
        case _:
            raise PriorError(
                f"{law!r} at strength {strength:g} is of no family that can be simulated; take "
                "strength 1, or sample it with htr.NUTS"
            )


def tempered_distribution(law: Law, strength: float) -> Any:
    """Return the distribution with the normalised density `p^strength`, in float64.

    Some powers are not laws of this package. With `y = z^-alpha`, a power of `Frechet` is
    `y ~ Gamma((strength (alpha + 1) - 1) / alpha, strength)`. A power of `HalfCauchy` is the
    positive half of Student's t with `2 strength - 1` degrees of freedom.

    Args:
        law: A law whose arguments are numbers.
        strength: Positive.

    Raises:
        PriorError: The same errors as in `tempered`.
    """
    s = strength
    double = torch.ones((), dtype=torch.float64)
    if s != 1 and law.is_proper(s):
        match law:
            case Frechet(alpha=float(a), scale=float(scale), loc=float(loc)):
                y = dist.Gamma(double * (s * (a + 1.0) - 1.0) / a, double * s)
                steps = [PowerTransform(double * -1.0 / a), AffineTransform(loc, scale)]
                return dist.TransformedDistribution(y, steps)
            case HalfCauchy(scale=float(scale)):
                freedom = 2.0 * s - 1.0
                student = dist.StudentT(double * freedom, 0.0, double * scale / freedom**0.5)
                return dist.FoldedDistribution(student)
    found = tempered(law, s)
    return found.distribution_of(found.numbers_like(double))

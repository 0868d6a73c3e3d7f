"""Powers of laws that are laws again: what a prior at another strength than 1 is simulated from."""

from __future__ import annotations

from dataclasses import replace

from bayes_htr.errors import PriorError
from bayes_htr.priors.common_laws import Exponential, Gamma, LogNormal, Normal
from bayes_htr.priors.heavy_tailed_laws import Lomax, Powerlaw, TruncatedPowerlaw
from bayes_htr.priors.law import Law


def tempered(law: Law, strength: float) -> Law:
    """The law with the density `p^strength`, normalised.

    Args:
        law: One whose arguments are numbers.
        strength: Positive.

    Raises:
        PriorError: `p^strength` has no finite integral, or is of none of the families here.
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

"""The priors that the command line accepts by name, each with a default strength."""

from __future__ import annotations

from os import PathLike
from typing import NamedTuple

from torch import nn

from bayes_htr.errors import PriorError
from bayes_htr.priors import (
    ESD,
    Exponential,
    Frechet,
    Hill,
    ImproperPowerlaw,
    Lomax,
    MaxEigenvalue,
    Prior,
    Priors,
    penalties,
)


class NamedPrior(NamedTuple):
    """A prior and its default strength (`docs/choosing-a-prior.md`).

    Attributes:
        prior: The prior.
        mu: For MAP, the coefficient `strength / num_data` of the energy next to the mean loss.
        strength: For a posterior, the strength, whatever the number of examples; `None` for the
            same strength as for MAP.
        of_posterior: For a posterior, the prior, if it differs from the prior for MAP.
    """

    prior: Prior
    mu: float
    strength: float | None = None
    of_posterior: Prior | None = None

    def own(self, num_data: int, *, posterior: bool = False) -> float:
        """Return the default strength.

        Args:
            num_data: The number of training examples.
            posterior: Whether the strength is for a posterior, not for MAP.
        """
        if posterior and self.strength is not None:
            return self.strength
        return self.mu * num_data


PRIORS = {
    "frechet": NamedPrior(MaxEigenvalue(Frechet(2.0, 1.0)), 1e-2, 30.0),
    "lomax": NamedPrior(ESD(Lomax(2.0, 1.0)), 3e-4, 1.0, ESD(Lomax(2.5, 0.05))),
    "exponential": NamedPrior(ESD(Exponential(1.0)), 1e-3, 3.0),
    "powerlaw": NamedPrior(ESD(ImproperPowerlaw(Hill()), tail=0.5), 1e-4),
    "frechet_hill": NamedPrior(penalties.frechet(), 3e-3),
    "powerlaw_hill": NamedPrior(penalties.powerlaw(), 1e-5),
    "weighted_alpha": NamedPrior(penalties.weighted_alpha(), 1e-2),
    "stable_rank": NamedPrior(penalties.stable_rank(), 1e-2),
    "weight_decay": NamedPrior(penalties.weight_decay(), 2e-3),
    "spectral_norm": NamedPrior(penalties.spectral_norm(), 1e-1),
    "nuclear_norm": NamedPrior(penalties.nuclear_norm(), 3e-4),
}


def named_priors(
    name: str | PathLike[str], *, strength: float | None, num_data: int, posterior: bool = False
) -> Priors:
    """Return the priors of this name, or those in a TOML file.

    Args:
        name: A key of `PRIORS`, `"none"`, or a path that ends in `.toml`.
        strength: The power of the laws; by default that of the named prior. For a file, it
            multiplies the strength in the file.
        num_data: The number of training examples.
        posterior: Whether the priors are for a posterior, not for MAP.

    Raises:
        PriorError: The name is unknown, a strength is given for `"none"`, or the file has no valid
            priors.
    """
    if str(name).endswith(".toml"):
        priors = Priors.from_toml(name)
        return priors if strength is None else priors.scaled(strength)
    if name == "none":
        if strength is not None:
            raise PriorError(f"prior none has no strength; {strength} was given")
        return Priors({})
    if name not in PRIORS:
        raise PriorError(
            f"prior {str(name)!r} is not one of none, {', '.join(PRIORS)}, nor a .toml file"
        )
    named = PRIORS[str(name)]
    own = named.own(num_data, posterior=posterior) if strength is None else strength
    law = named.of_posterior if posterior and named.of_posterior else named.prior
    return Priors(law).scaled(own)


def check_densities(priors: Priors, net: nn.Module, *, num_data: int) -> None:
    """Check that priors are densities over the weights of a network.

    Raises:
        PriorError: A prior is not a density; the message lists the named priors that are.
    """
    try:
        priors.densities(net, 0)
    except PriorError as error:
        proper = []
        for name in PRIORS:
            try:
                own = named_priors(name, strength=None, num_data=num_data, posterior=True)
                own.densities(net, 0)
            except PriorError:
                continue
            proper.append(name)
        raise PriorError(
            f"{error}. For this method name a density: --prior {', '.join(proper)}"
        ) from error

"""Hyperparameters with hyperpriors as latent quantities of an energy.

Each lives in unconstrained coordinates: `log` for a positive one, so that the mode is that of
`log` of the hyperparameter. For a Gamma hyperprior on a tail index that mode has the same weights
as integrating it out (`docs/theory.md`, "Hyperparameters").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to

from bayes_htr.priors import Law, Prior, Shared


@dataclass(frozen=True)
class Latent:
    """A hyperparameter: its name and hyperprior."""

    name: str
    law: Law

    def _distribution(self, u: Tensor) -> Any:
        """The hyperprior in the precision and on the device of `u`."""
        return self.law.distribution_of(
            {name: u.new_tensor(value) for name, value in self.law.arguments.items()}
        )

    def value(self, u: Tensor) -> Tensor:
        """The hyperparameter at the unconstrained coordinate `u`."""
        result: Tensor = biject_to(self._distribution(u).support)(u)
        return result

    def energy(self, u: Tensor) -> Tensor:
        """`-log` of the density of `u`: hyperprior and Jacobian, with all constants."""
        distribution = self._distribution(u)
        transform = biject_to(distribution.support)
        value = transform(u)
        return -(distribution.log_prob(value) + transform.log_abs_det_jacobian(u, value))

    def start(self) -> Tensor:
        """Where optimisation starts: the hyperprior's median, or its mean where Torch has none."""
        distribution = self.law.distribution()
        try:
            value = torch.as_tensor(distribution.icdf(torch.tensor(0.5)))
        except NotImplementedError:  # Gamma
            value = torch.as_tensor(distribution.mean)
        start: Tensor = biject_to(distribution.support).inv(value)
        return start.to(torch.get_default_dtype())


def latents_of(prior: Prior, matrix: str, *, conjugate: bool = False) -> list[dict[str, Latent]]:
    """For each term of a prior on a matrix, its latents by argument name.

    Args:
        prior: The prior.
        matrix: The matrix's name.
        conjugate: Whether a conjugate tail index is one of them; else it is integrated out.
    """
    found: list[dict[str, Latent]] = []
    seen: dict[str, int] = {}
    for term in prior.terms:
        law = term.statistic.law
        kind = type(term.statistic).__name__
        seen[kind] = seen.get(kind, 0) + 1
        label = kind if seen[kind] == 1 else f"{kind}{seen[kind]}"
        found.append(
            {
                argument: Latent(spec.name, spec.law)
                if isinstance(spec, Shared)
                else Latent(
                    f"{matrix}:{label}.{argument}", spec if isinstance(spec, Law) else spec.law
                )
                for argument, spec in law.latents.items()
                if conjugate or law.conjugate is None or argument != "tail_index"
            }
        )
    return found

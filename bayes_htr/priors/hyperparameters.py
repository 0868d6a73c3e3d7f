"""Hyperparameters with hyperpriors, and the unconstrained coordinates in which they are optimised.

A positive hyperparameter is optimised through its logarithm, so that the mode is that of the
logarithm. For a Gamma hyperprior on a tail index this mode gives the same weights as integrating
the tail index out (`docs/theory.md`, "Hyperparameters").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to

from bayes_htr.priors.law import Law, Shared
from bayes_htr.priors.prior import Prior


@dataclass(frozen=True)
class Hyperparameter:
    """One hyperparameter of a network's priors.

    Attributes:
        name: The name that `Shared` gives, or the names of matrix, statistic and argument together.
        law: The hyperprior.
    """

    name: str
    law: Law

    def distribution(self, like: Tensor) -> Any:
        """The hyperprior in the precision and on the device of `like`."""
        return self.law.distribution_of(self.law.numbers_like(like))

    def value(self, u: Tensor) -> Tensor:
        """The hyperparameter at the unconstrained coordinate `u`."""
        result: Tensor = biject_to(self.distribution(u).support)(u)
        return result

    def coordinate(self, value: Tensor) -> Tensor:
        """The unconstrained coordinate of a value of the hyperparameter."""
        result: Tensor = biject_to(self.distribution(value).support).inv(value)
        return result

    def energy(self, u: Tensor) -> Tensor:
        """`-log` of the density of `u`: hyperprior and Jacobian, with all constants."""
        distribution = self.distribution(u)
        transform = biject_to(distribution.support)
        value = transform(u)
        return -(distribution.log_prob(value) + transform.log_abs_det_jacobian(u, value))

    def start(self) -> Tensor:
        """The start of optimisation: the hyperprior's median, or its mean if PyTorch has none."""
        distribution = self.law.distribution()
        try:
            value = torch.as_tensor(distribution.icdf(torch.tensor(0.5)))
        except NotImplementedError:  # Gamma
            value = torch.as_tensor(distribution.mean)
        start: Tensor = biject_to(distribution.support).inv(value)
        return start.to(torch.get_default_dtype())


def hyperparameters_of(prior: Prior, matrix: str) -> list[dict[str, Hyperparameter]]:
    """The hyperparameters of each term of a prior on a matrix, by name of the argument.

    Args:
        prior: The prior.
        matrix: The name of the matrix, which is part of the names of its own hyperparameters.
    """
    terms = []
    seen: dict[str, int] = {}
    for term in prior.terms:
        kind = type(term.statistic).__name__
        seen[kind] = seen.get(kind, 0) + 1
        label = kind if seen[kind] == 1 else f"{kind}{seen[kind]}"
        hyperparameters = {}
        for argument, stated in term.statistic.law.hyperpriors.items():
            law = stated if isinstance(stated, Law) else stated.law
            name = stated.name if isinstance(stated, Shared) else f"{matrix}:{label}.{argument}"
            hyperparameters[argument] = Hyperparameter(name, law)
        terms.append(hyperparameters)
    return terms

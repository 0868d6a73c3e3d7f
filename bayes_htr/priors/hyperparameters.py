"""What an argument of a law can be besides a number.

- `Hill`: the plug-in estimate from the matrix's own spectrum (empirical Bayes);
- a law: a hyperprior, one latent per matrix; a Gamma law on the tail index of a power law is
  integrated out in closed form;
- `Joint(law)`: the same, kept as a latent even where it could be integrated out;
- `Shared(name, law)`: one latent for all matrices that name it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from bayes_htr.errors import PriorError
from bayes_htr.priors.values import Value, number
from bayes_htr.spectra import hill

if TYPE_CHECKING:
    from bayes_htr.priors.law import Law


@dataclass(frozen=True, repr=False)
class Hill(Value):
    """Hill's estimate of the exponent from the matrix that is scored.

    `alpha = 1 + (1/k sum_{i<=k} ln(lambda_i / lambda_{k+1}))^-1`, `k = max(1, floor(fraction K))`.

    Args:
        fraction: The part of the spectrum that is the tail, in (0, 1).
        differentiable: Whether the gradient flows through the estimate. If not, it is a constant
            of the moment: empirical Bayes, and the update is not the gradient of a function.
        exponent: `"density"`, or `"tail"` for one less: the tail-consistent shape of a Fréchet law.
    """

    fraction: float = 0.5
    differentiable: bool = False
    exponent: Literal["density", "tail"] = "density"

    def __post_init__(self) -> None:
        fraction = number(self.fraction, "Hill fraction", above=0, below=1)
        object.__setattr__(self, "fraction", fraction)
        if not isinstance(self.differentiable, bool):
            raise PriorError(f"Hill differentiable={self.differentiable!r} must be True or False")
        if self.exponent not in ("density", "tail"):
            raise PriorError(f"Hill exponent={self.exponent!r} must be 'density' or 'tail'")

    def __call__(self, eigenvalues: Tensor, name: str) -> Tensor:
        """The estimate, 0-d; see `bayes_htr.hill`."""
        return hill(eigenvalues, self.fraction, exponent=self.exponent, name=name)


@dataclass(frozen=True, repr=False)
class Joint(Value):
    """A hyperprior whose latent, one per matrix, is optimised together with the weights."""

    law: Law

    def __post_init__(self) -> None:
        _check_hyperprior(self.law)


@dataclass(frozen=True, repr=False)
class Shared(Value):
    """A hyperprior with one latent for all the matrices that use the same name.

    Raises:
        PriorError: An empty name, or something that is no hyperprior. That one name stands for
            one law everywhere is checked when priors meet a network.
    """

    name: str
    law: Law

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise PriorError(f"Shared name={self.name!r} must be a word")
        _check_hyperprior(self.law)


def _check_hyperprior(law: object) -> None:
    from bayes_htr.priors.law import Law

    if not isinstance(law, Law):
        raise PriorError(f"{law!r} must be a law, such as Gamma(9.0, 3.0)")
    law.require_hyperprior()

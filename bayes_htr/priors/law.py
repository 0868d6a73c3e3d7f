"""The base class of laws: values with an energy `-log p(x)` and a Pyro distribution.

The energy is a function of tensors and drops constants; the distribution is complete. An argument
of a law is a number or one of the following:

- `Hill`: a plug-in estimate from the matrix's own spectrum (empirical Bayes);
- a law: a hyperprior, with one latent variable for each matrix. A Gamma law on the tail index of a
  power law is integrated out in closed form;
- `Joint(law)`: a hyperprior whose latent variable is kept even if it could be integrated out;
- `Shared(name, law)`: a hyperprior with one latent variable for all matrices that use the name.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.distributions import biject_to

from bayes_htr.errors import PriorError
from bayes_htr.priors.values import Value, number
from bayes_htr.spectra import hill

Argument: TypeAlias = "float | Hill | Law | Joint | Shared"
Arguments: TypeAlias = Mapping[str, "Tensor | float"]


class Range(NamedTuple):
    """The open range of an argument, and the kinds of values that it accepts besides numbers."""

    above: float | None = None
    hill: bool = False
    latent: bool = False


POSITIVE = Range(above=0, latent=True)


@dataclass(frozen=True, repr=False)
class Hill(Value):
    """Hill's estimate of the exponent from the spectrum of the matrix.

    `alpha = 1 + (1/k sum_{i<=k} ln(lambda_i / lambda_{k+1}))^-1`, `k = max(1, floor(fraction K))`.

    Args:
        fraction: The fraction of the spectrum that forms the tail, in (0, 1).
        differentiable: Whether the gradient flows through the estimate. If not, the estimate is
            treated as a constant (empirical Bayes), and the update is not the gradient of a
            function.
        exponent: `"density"` for `alpha`, or `"tail"` for `alpha - 1`, which is the consistent
            shape of a Fréchet law.
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
        """Return the estimate, 0-d; see `bayes_htr.hill`."""
        return hill(eigenvalues, self.fraction, exponent=self.exponent, name=name)


@dataclass(frozen=True, repr=False)
class Law(Value, abstract=True):
    """Base class of all laws."""

    ranges: ClassVar[Mapping[str, Range]] = {}
    optional: ClassVar[tuple[str, ...]] = ()
    positive: ClassVar[bool] = True
    """Whether the support contains only non-negative numbers."""
    normalised: ClassVar[bool] = True
    singular_at_zero: ClassVar[bool] = False
    """Whether the energy or its derivative is unbounded at 0."""

    def __post_init__(self) -> None:
        for name, allowed in self.ranges.items():
            value = getattr(self, name)
            if value is None and name in self.optional:
                continue
            object.__setattr__(self, name, self._checked(name, value, allowed))

    def _checked(self, name: str, value: Any, allowed: Range) -> Argument:
        what = f"{type(self).__name__} {name}"
        if isinstance(value, Hill):
            if not allowed.hill:
                raise PriorError(f"{what}={value!r}: Hill estimates an exponent; give a number")
            return value
        if isinstance(value, Law | Joint | Shared):
            if not allowed.latent:
                raise PriorError(f"{what}={value!r}: no hyperprior here; {self._instead(name)}")
            law = value if isinstance(value, Law) else value.law
            law.require_hyperprior()
            if allowed.above is not None and not law.positive:
                raise PriorError(f"{what}={value!r}: the hyperprior must be a positive law")
            return value
        return number(value, what, above=allowed.above)

    def _instead(self, name: str) -> str:
        return "give a number"

    def require_hyperprior(self) -> None:
        """Raise `PriorError` unless the law can be a hyperprior: proper, and with numbers only."""
        if not self.normalised or not all(isinstance(v, float) for v in self._given().values()):
            raise PriorError(
                f"{self!r} as a hyperprior: take a proper law whose arguments are numbers"
            )

    @cached_property
    def arguments(self) -> dict[str, Argument]:
        """The arguments by name, without those that were left out."""
        stated = self._given()
        return {name: stated[name] for name in self.ranges if name in stated}

    @cached_property
    def numbers(self) -> dict[str, float]:
        """The arguments that are numbers, by name."""
        return {k: v for k, v in self.arguments.items() if isinstance(v, float)}

    def numbers_like(self, like: Tensor) -> dict[str, Tensor]:
        """Return the arguments that are numbers as tensors with the dtype and device of `like`."""
        return {k: like.new_tensor(v) for k, v in self.numbers.items()}

    @cached_property
    def hill(self) -> Hill | None:
        """The plug-in estimate among the arguments, if there is one (no law takes two)."""
        return next((a for a in self.arguments.values() if isinstance(a, Hill)), None)

    @cached_property
    def hyperpriors(self) -> dict[str, Law | Joint | Shared]:
        """The hyperpriors among the arguments, by argument name."""
        arguments = self.arguments.items()
        return {k: v for k, v in arguments if isinstance(v, Law | Joint | Shared)}

    @cached_property
    def conjugate(self) -> Law | None:
        """The Gamma hyperprior that is integrated out in closed form, if there is one."""
        return None

    def is_proper(self, strength: float = 1.0) -> bool:
        """Return whether `p^strength` has a finite integral, given its hyperparameters.

        A law with a plug-in estimate is not a density.
        """
        return self.normalised and self.hill is None and strength > 0

    def _tail_is_finite(self, alpha: Any, strength: float) -> bool:
        """Return whether `x^(-strength alpha)` is integrable at infinity.

        An exponent with a hyperprior has a finite tail at strength 1.
        """
        return alpha * strength > 1 if isinstance(alpha, float) else strength >= 1

    @abstractmethod
    def energy(self, x: Tensor, a: Arguments) -> Tensor:
        """Return `-log p(x)` for each element of `x`, without terms that do not depend on `x`."""

    def total_energy(
        self, x: Tensor, a: Arguments, start: Tensor | None = None, strength: float = 1.0
    ) -> Tensor:
        """Return `-strength` times the log density of all elements of `x`: 0-d.

        Constants are dropped where no argument is a hyperparameter, and kept where one is, since
        they depend on it.

        Args:
            x: `(n,)` values on the support.
            a: The arguments.
            start: The start of the scored tail, if it is not that of the law's own support.
            strength: The power of the law.

        Raises:
            ValueError: A hyperparameter is outside the range of the law.
        """
        if not self.hyperpriors:
            return strength * self.energy(x, a).sum()
        return -strength * self.distribution_of(dict(a)).log_prob(x).sum()

    @abstractmethod
    def distribution_of(self, a: Arguments) -> Any:
        """Return the Pyro distribution for these arguments."""

    def distribution(self) -> Any:
        """Return the Pyro distribution of a law whose arguments are numbers.

        Raises:
            PriorError: An argument is a plug-in estimate, a hyperprior, or missing.
        """
        if len(self.numbers) < len(self.arguments):
            raise PriorError(
                f"{self!r} has no distribution of its own: not all arguments are numbers"
            )
        return self.distribution_of(self.numbers)

    def on_support(self, x: Tensor, a: Arguments) -> Tensor:
        """Move `x` to the nearest end of the support where the energy continues as a constant.

        Only laws with a lower or upper end inside the positive numbers move any values: see
        `docs/theory.md`, "Eigenvalues outside the support".
        """
        return x


@dataclass(frozen=True, repr=False)
class Joint(Value):
    """A hyperprior whose latent variable, one per matrix, is optimised with the weights."""

    law: Law

    def __post_init__(self) -> None:
        _check_hyperprior(self.law)


@dataclass(frozen=True, repr=False)
class Shared(Value):
    """A hyperprior with one latent variable for all matrices that use the same name.

    Raises:
        PriorError: The name is empty, or the law cannot be a hyperprior. Whether every use of a
            name has the same law is checked when the priors are applied to a network.
    """

    name: str
    law: Law

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise PriorError(f"Shared name={self.name!r} must be a word")
        _check_hyperprior(self.law)


def _check_hyperprior(law: object) -> None:
    if not isinstance(law, Law):
        raise PriorError(f"{law!r} must be a law, such as Gamma(9.0, 3.0)")
    law.require_hyperprior()


@dataclass(frozen=True)
class Hyperparameter:
    """One hyperparameter of a network's priors, and the coordinate in which it is optimised.

    A positive hyperparameter is optimised through its logarithm, so that the mode is that of the
    logarithm. For a Gamma hyperprior on a tail index this mode gives the same weights as
    integrating the tail index out (`docs/theory.md`, "Hyperparameters").

    Attributes:
        name: The name that `Shared` gives, or the names of matrix, statistic and argument together.
        law: The hyperprior.
    """

    name: str
    law: Law

    def distribution(self, like: Tensor) -> Any:
        """Return the hyperprior in the precision and on the device of `like`."""
        return self.law.distribution_of(self.law.numbers_like(like))

    def value(self, u: Tensor) -> Tensor:
        """Return the hyperparameter at the unconstrained coordinate `u`."""
        result: Tensor = biject_to(self.distribution(u).support)(u)
        return result

    def coordinate(self, value: Tensor) -> Tensor:
        """Return the unconstrained coordinate of a value of the hyperparameter."""
        result: Tensor = biject_to(self.distribution(value).support).inv(value)
        return result

    def energy(self, u: Tensor) -> Tensor:
        """Return `-log` of the density of `u`: hyperprior and Jacobian, with all constants."""
        distribution = self.distribution(u)
        transform = biject_to(distribution.support)
        value = transform(u)
        return -(distribution.log_prob(value) + transform.log_abs_det_jacobian(u, value))

    def start(self) -> Tensor:
        """Return the value from which optimisation starts, in unconstrained coordinates.

        It is the median of the hyperprior, or its mean if PyTorch has no median of it.
        """
        distribution = self.law.distribution()
        try:
            value = torch.as_tensor(distribution.icdf(torch.tensor(0.5)))
        except NotImplementedError:  # Gamma
            value = torch.as_tensor(distribution.mean)
        start: Tensor = biject_to(distribution.support).inv(value)
        return start.to(torch.get_default_dtype())

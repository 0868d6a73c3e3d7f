"""A prior on one matrix: a statistic with a law, products of such priors, and their strength.

`a & b` multiplies priors. `.scaled(s)` raises a prior to a power, `.scheduled(d)` lets the power
decay over the epochs, and `.above(t)` lets the penalty act only if it is at least `t`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from bayes_htr.errors import PriorError, SpectrumError
from bayes_htr.priors.heavy_tailed_laws import Powerlaw
from bayes_htr.priors.law import Arguments, Law
from bayes_htr.priors.schedules import Schedule
from bayes_htr.priors.values import Value, number
from bayes_htr.spectra import MatrixView, Need


class Term(NamedTuple):
    """One statistic of a prior, with the strength and schedules that apply to it."""

    statistic: Statistic
    strength: float = 1.0
    schedules: tuple[Schedule, ...] = ()


class Gate(NamedTuple):
    """The terms (by index) that act only if the sum of their penalties is at least a threshold."""

    threshold: float
    terms: tuple[int, ...]


class Terms(NamedTuple):
    """A prior taken apart: its terms, and which of them act only above a threshold."""

    terms: tuple[Term, ...]
    gates: tuple[Gate, ...]

    @property
    def status(self) -> str:
        """`"proper"`, `"improper"`, or `"factor"` where it is a density over no coordinate."""
        if not all(term.statistic.is_density for term in self.terms):
            return "factor"
        is_proper = all(term.statistic.is_proper(term.strength) for term in self.terms)
        return "proper" if is_proper and not self.gates else "improper"


def how_to_leave_out(name: str) -> str:
    """Return the advice in an error about a matrix that a law cannot score."""
    return (
        "Initialise it on the scale of the law, take a law that is finite at 0, such as "
        f"ESD(Lomax(2.0)), or leave it out: Priors({{{name!r}: None, '*': ...}})"
    )


@dataclass(frozen=True, repr=False)
class Prior(Value, abstract=True):
    """A prior on one matrix."""

    def scaled(self, strength: float) -> Prior:
        """Return the prior to the power `strength`.

        Hyperpriors stay as they are. Repeated calls multiply the strengths.
        """
        return Scaled(self, strength)

    def scheduled(self, schedule: Schedule) -> Prior:
        """Return the prior with its strength times `schedule(epoch)`; repeated calls multiply."""
        return Scheduled(self, schedule)

    def above(self, threshold: float) -> Prior:
        """Return the prior whose penalty acts only where it is at least `threshold`.

        The penalty is the energy before it is multiplied by the strength.
        """
        return Above(self, threshold)

    def __and__(self, other: Prior) -> Prior:
        if not isinstance(other, Prior):
            return NotImplemented
        return Product((self, other))

    @abstractmethod
    def decompose(self) -> Terms:
        """Return the prior taken apart into terms and gates."""

    @property
    def terms(self) -> tuple[Term, ...]:
        """The statistics with their strengths."""
        return self.decompose().terms

    @cached_property
    def needs(self) -> Need:
        """The parts of a spectrum that the prior needs."""
        needs = Need()
        for term in self.terms:
            needs |= term.statistic.needs
        return needs

    @property
    def spectral(self) -> bool:
        """Whether the prior needs a matrix; a prior of only `Entries` also accepts vectors."""
        return any(term.statistic.needs_matrix for term in self.terms)

    @property
    def status(self) -> str:
        """`"proper"`, `"improper"`, or `"factor"` where it is a density over no coordinate."""
        return self.decompose().status


@dataclass(frozen=True, repr=False)
class Statistic(Prior, abstract=True):
    """A law on a statistic of a matrix."""

    law: Law

    def __post_init__(self) -> None:
        if not isinstance(self.law, Law):
            raise PriorError(
                f"{type(self).__name__} law={self.law!r} must be a law, such as Lomax(2.0)"
            )
        if isinstance(self.law, Powerlaw) and self.law.xmin is None and self._start_from is None:
            raise PriorError(f"{self!r}: the law needs xmin, the start of its tail")

    needs_matrix: ClassVar[bool] = True
    """Whether the statistic is only defined for matrices."""
    is_density: ClassVar[bool] = True
    """Whether a law on it is a density over some coordinate of the matrix."""
    of_spectrum: ClassVar[bool] = True
    """Whether the statistic is a function of the spectrum, not of the entries."""
    of_largest: ClassVar[bool] = False
    """Whether only the largest eigenvalue has the law, and the ratios of the others to it are
    uniform. The natural coordinates are then these quantities, and otherwise the values of the
    statistic."""
    precedence: ClassVar[int] = 0
    """If a prior has several statistics of one spectrum, the one with the lowest precedence
    determines most of the spectrum, and decides what is sampled."""
    _start_from: ClassVar[float | None] = None

    @property
    def scores_part(self) -> bool:
        """Whether the law applies to a part of the spectrum, and the rest has a flat prior."""
        return False

    def of_eigenvalues(self, eigenvalues: Tensor) -> Tensor:
        """Return the values of the statistic for eigenvalues `(..., K)`, in the same order."""
        return eigenvalues

    def to_eigenvalues(self, values: Tensor) -> Tensor:
        """Return the eigenvalues for values of the statistic, element by element."""
        return values

    def log_derivative(self, eigenvalues: Tensor) -> Tensor:
        """Return `log |dx / dlambda|` for each value `x` of the statistic and its eigenvalue."""
        return torch.zeros_like(eigenvalues)

    def log_volume(self, eigenvalues: Tensor) -> Tensor:
        """Return the logarithm of a factor in the density of the spectrum.

        The density of eigenvalues `(..., K)` in descending order is `prod p(x_i)` times this
        factor, which is `K! prod |dx / dlambda|`.
        """
        K = eigenvalues.shape[-1]
        return math.lgamma(K + 1) + self.log_derivative(eigenvalues).sum(-1)

    def num_values(self, shape: tuple[int, int]) -> int:
        """Return the number of values of the statistic for a matrix of a given shape."""
        return min(shape)

    def proper_example(self, alpha: float) -> str:
        """Return the expression of a prior on this statistic with a proper heavy-tailed law."""
        return f"{type(self).__name__}(Lomax({alpha}))"

    def decompose(self) -> Terms:
        return Terms((Term(self),), ())

    def is_proper(self, strength: float = 1.0) -> bool:
        """Return whether `p^strength` is a density up to a finite constant."""
        return self.law.is_proper(strength)

    @cached_property
    @abstractmethod
    def own_needs(self) -> Need:
        """The parts of a spectrum that the statistic itself needs."""

    @cached_property
    def needs(self) -> Need:
        """The parts that the statistic and the plug-in estimate of its law need."""
        if self.law.hill is None:
            return self.own_needs
        return self.own_needs | Need(upper=self.law.hill.fraction)

    @abstractmethod
    def values(self, view: MatrixView) -> Tensor:
        """Return the one-dimensional values of the statistic, with gradient to the matrix."""

    def start(self, view: MatrixView) -> Tensor | None:
        """Return the start of the tail as a constant; `None` for the law's own support."""
        return None

    def energy(
        self, view: MatrixView, hyperparameters: Mapping[str, Tensor], strength: float = 1.0
    ) -> Tensor:
        """Return the energy `-strength log p`, without constants.

        Args:
            view: The matrix.
            hyperparameters: The values of the law's hyperparameters by argument name.
            strength: The power of the law.

        Returns:
            0-d, with gradient to the matrix and the hyperparameters.

        Raises:
            SpectrumError: The energy is not finite, or all values lie outside the law's support.
        """
        x, a = self.values(view), self._arguments(view, hyperparameters)
        start = self.start(view)
        x = self._supported(view, x, a)
        try:
            return self.law.total_energy(x, a, start, strength)
        except ValueError as error:
            first = str(error).strip().partition("\n")[0].rstrip(".:")
            raise SpectrumError(
                f"{view.name}: {self!r} cannot be scored: {first}. {how_to_leave_out(view.name)}"
            ) from error

    def not_finite(self, view: MatrixView, energy: float) -> SpectrumError:
        """Return the error that says why an energy is not finite."""
        x = self.values(view)
        return SpectrumError(
            f"{view.name}: the energy of {self!r} is {energy} "
            f"(scored values from {x.min().item():.3g} to {x.max().item():.3g}); "
            f"these lie at or outside the end of the law's support. {how_to_leave_out(view.name)}"
        )

    def _arguments(self, view: MatrixView, hyperparameters: Mapping[str, Tensor]) -> Arguments:
        """Return the law's arguments as numbers and tensors.

        A tail index that is integrated out is left out.
        """
        arguments: dict[str, Tensor | float] = {**self.law.numbers, **hyperparameters}
        hill = self.law.hill
        if hill is not None:
            lam = view.eigenvalues if hill.differentiable else view.eigenvalues.detach()
            (name,) = (k for k, v in self.law.arguments.items() if v is hill)
            arguments[name] = hill(lam, view.name)
        return arguments

    def _supported(self, view: MatrixView, x: Tensor, a: Arguments) -> Tensor:
        law = self.law
        if law.positive and bool((x < 0).any()):
            raise SpectrumError(
                f"{view.name}: {law!r} is a law of positive numbers, and {int((x < 0).sum())} of "
                f"{x.numel()} values are negative (the least {x.min().item():.3g}); "
                "for entries of both signs take Normal"
            )
        inside = law.on_support(x, a)
        if x.numel() and not view.started and bool((inside != x).all()):
            raise SpectrumError(
                f"{view.name}: all {x.numel()} values, from {x.min().item():.3g} to "
                f"{x.max().item():.3g}, lie outside the support of {law!r}, so that the prior "
                "would do nothing; lower xmin (or raise xmax), or take Lomax"
            )
        return inside


@dataclass(frozen=True, repr=False)
class Product(Prior):
    """A product of priors on the same matrix: their energies add.

    Args:
        factors: Two or more priors.
    """

    factors: tuple[Prior, ...]

    def __post_init__(self) -> None:
        factors = tuple(self.factors)
        if len(factors) < 2 or not all(isinstance(f, Prior) for f in factors):
            raise PriorError(f"a product takes two or more priors, not {factors!r}")
        # one form for one product, so that equals are equal
        object.__setattr__(self, "factors", tuple(g for f in factors for g in _factors(f)))

    def __repr__(self) -> str:
        return " & ".join(map(repr, self.factors))

    def decompose(self) -> Terms:
        terms: list[Term] = []
        gates: list[Gate] = []
        for factor in self.factors:
            shift = len(terms)
            inner = factor.decompose()
            terms += inner.terms
            gates += [Gate(t, tuple(i + shift for i in index)) for t, index in inner.gates]
        return Terms(tuple(terms), tuple(gates))


@dataclass(frozen=True, repr=False)
class _Wrapped(Prior, abstract=True):
    """A prior that modifies another prior."""

    prior: Prior

    def __post_init__(self) -> None:
        if not isinstance(self.prior, Prior):
            raise PriorError(f"{type(self).__name__} prior={self.prior!r} must be a prior")

    def _show(self, call: str) -> str:
        inner = f"({self.prior!r})" if isinstance(self.prior, Product) else repr(self.prior)
        return f"{inner}.{call}"


@dataclass(frozen=True, repr=False)
class Scaled(_Wrapped):
    """`prior^strength`, the result of `prior.scaled(strength)`."""

    strength: float

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "strength", number(self.strength, "strength", at_least=0))

    def __repr__(self) -> str:
        return self._show(f"scaled({self.strength})")

    def decompose(self) -> Terms:
        terms, gates = self.prior.decompose()
        return Terms(
            tuple(Term(t.statistic, t.strength * self.strength, t.schedules) for t in terms), gates
        )


@dataclass(frozen=True, repr=False)
class Scheduled(_Wrapped):
    """A prior whose strength decays, the result of `prior.scheduled(schedule)`."""

    schedule: Schedule

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.schedule, Schedule):
            raise PriorError(f"schedule={self.schedule!r} must be a PowerDecay or ExpDecay")

    def __repr__(self) -> str:
        return self._show(f"scheduled({self.schedule!r})")

    def decompose(self) -> Terms:
        terms, gates = self.prior.decompose()
        return Terms(
            tuple(Term(t.statistic, t.strength, (*t.schedules, self.schedule)) for t in terms),
            gates,
        )


@dataclass(frozen=True, repr=False)
class Above(_Wrapped):
    """A prior that acts only if its penalty is at least `threshold`: `prior.above(threshold)`."""

    threshold: float

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "threshold", number(self.threshold, "threshold"))

    def __repr__(self) -> str:
        return self._show(f"above({self.threshold})")

    def decompose(self) -> Terms:
        terms, gates = self.prior.decompose()
        return Terms(terms, (*gates, Gate(self.threshold, tuple(range(len(terms))))))


def _factors(prior: Prior) -> Iterator[Prior]:
    if isinstance(prior, Product):
        yield from prior.factors
    else:
        yield prior

"""A prior on one matrix: a statistic with a law, products of such, and their strength.

`a & b` multiplies priors; `.scaled(s)` raises to a power, `.scheduled(d)` lets the power decay over
epochs, `.above(t)` lets the penalty act only while it is at least `t`.
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
    """The terms (by index) that act only while the sum of their penalties is at least a number."""

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


@dataclass(frozen=True, repr=False)
class Prior(Value, abstract=True):
    """A prior on one matrix."""

    def scaled(self, strength: float) -> Prior:
        """`p^strength`: tempers the laws, not hyperpriors. Repeated calls multiply."""
        return Scaled(self, strength)

    def scheduled(self, schedule: Schedule) -> Prior:
        """The strength multiplied by `schedule(epoch)`. Repeated calls multiply."""
        return Scheduled(self, schedule)

    def above(self, threshold: float) -> Prior:
        """The penalty (the energy before strength) acts only while it is at least `threshold`."""
        return Above(self, threshold)

    def __and__(self, other: Prior) -> Prior:
        if not isinstance(other, Prior):
            return NotImplemented
        return Product((self, other))

    @abstractmethod
    def decompose(self) -> Terms:
        """The prior taken apart into terms and gates."""

    @property
    def terms(self) -> tuple[Term, ...]:
        """The statistics with their strengths."""
        return self.decompose().terms

    @cached_property
    def needs(self) -> Need:
        """What the prior needs of a matrix."""
        needs = Need()
        for term in self.terms:
            needs |= term.statistic.needs
        return needs

    @property
    def spectral(self) -> bool:
        """Whether it needs a matrix (`Entries` alone takes vectors too)."""
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
    """Whether it is defined for matrices alone."""
    is_density: ClassVar[bool] = True
    """Whether a law on it is a density over some coordinate of the matrix."""
    of_spectrum: ClassVar[bool] = True
    """Whether it is a function of the spectrum; else it is one of the entries."""
    of_largest: ClassVar[bool] = False
    """Whether the largest eigenvalue alone has the law, and the ratios of the others to it are
    uniform: the natural coordinates are then these, and else the values themselves."""
    precedence: ClassVar[int] = 0
    """Of several on one spectrum that of the lowest says most of it: it decides what is sampled."""
    _start_from: ClassVar[float | None] = None

    @property
    def scores_part(self) -> bool:
        """Whether a part of the spectrum is scored and the rest left flat."""
        return False

    def of_eigenvalues(self, eigenvalues: Tensor) -> Tensor:
        """What has the law, from eigenvalues `(..., K)`; their own order is kept."""
        return eigenvalues

    def to_eigenvalues(self, values: Tensor) -> Tensor:
        """Values that have the law as eigenvalues, element by element."""
        return values

    def log_derivative(self, eigenvalues: Tensor) -> Tensor:
        """`log |dx / dlambda|` of each value `x` that has the law by its eigenvalue."""
        return torch.zeros_like(eigenvalues)

    def log_volume(self, eigenvalues: Tensor) -> Tensor:
        """What makes the product of `p` the density of the ordered spectrum, its logarithm.

        `K! prod |dx / dlambda|`: the density of eigenvalues `(..., K)` in descending order is
        `prod p(x_i)` times this.
        """
        K = eigenvalues.shape[-1]
        return math.lgamma(K + 1) + self.log_derivative(eigenvalues).sum(-1)

    def num_values(self, shape: tuple[int, int]) -> int:
        """How many values of a matrix of a shape have the law."""
        return min(shape)

    def proper_example(self, alpha: float) -> str:
        """A prior of this kind with a proper heavy-tailed law, as it would be written."""
        return f"{type(self).__name__}(Lomax({alpha}))"

    def decompose(self) -> Terms:
        return Terms((Term(self),), ())

    def is_proper(self, strength: float = 1.0) -> bool:
        """Whether `p^strength` is a density up to a finite constant."""
        return self.law.is_proper(strength)

    @cached_property
    @abstractmethod
    def own_needs(self) -> Need:
        """What the statistic itself needs of a matrix."""

    @cached_property
    def needs(self) -> Need:
        """What the statistic and the law's plug-in estimate need of a matrix."""
        if self.law.hill is None:
            return self.own_needs
        return self.own_needs | Need(upper=self.law.hill.fraction)

    @abstractmethod
    def values(self, view: MatrixView) -> Tensor:
        """The scored values, one-dimensional, with gradient to the matrix."""

    def start(self, view: MatrixView) -> Tensor | None:
        """Where the scored tail starts, a constant; `None` for the law's own support."""
        return None

    def energy(
        self, view: MatrixView, latents: Mapping[str, Tensor], strength: float = 1.0
    ) -> Tensor:
        """The energy at a strength: `-strength log p`, without what depends on nothing here.

        Args:
            view: The matrix.
            latents: The values of the law's hyperparameters by argument name.
            strength: The power of the law.

        Returns:
            0-d, with gradient to the matrix and the latents.

        Raises:
            SpectrumError: The energy is not finite, or the law's support holds none of the values.
        """
        x, a = self.values(view), self._arguments(view, latents)
        start = self.start(view)
        x = self._supported(view, x, a)
        try:
            energy = self.law.total_energy(x, a, start, strength)
        except ValueError as error:
            raise SpectrumError(f"{view.name}: {self!r} cannot be scored: {error}") from error
        return self._finite(view, energy, x)

    def _finite(self, view: MatrixView, energy: Tensor, x: Tensor) -> Tensor:
        if not bool(torch.isfinite(energy)):
            raise SpectrumError(
                f"{view.name}: the energy of {self!r} is {energy.item()} "
                f"(scored values from {x.min().item():.3g} to {x.max().item():.3g}); "
                "these lie at or outside the end of the law's support; if it is no weight matrix, "
                'leave it out by patterns, as in Priors({"*.weight": ...})'
            )
        return energy

    def _arguments(self, view: MatrixView, latents: Mapping[str, Tensor]) -> Arguments:
        """The law's arguments as numbers and tensors; a tail index integrated out is left out."""
        arguments: dict[str, Tensor | float] = {**self.law.numbers, **latents}
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
    """A prior with something around it."""

    prior: Prior

    def __post_init__(self) -> None:
        if not isinstance(self.prior, Prior):
            raise PriorError(f"{type(self).__name__} prior={self.prior!r} must be a prior")

    def _show(self, call: str) -> str:
        inner = f"({self.prior!r})" if isinstance(self.prior, Product) else repr(self.prior)
        return f"{inner}.{call}"


@dataclass(frozen=True, repr=False)
class Scaled(_Wrapped):
    """`prior^strength`; what `prior.scaled(strength)` makes."""

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
    """A prior whose strength decays; what `prior.scheduled(schedule)` makes."""

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
    """A prior that acts while its penalty is at least `threshold`; what `prior.above(t)` makes."""

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

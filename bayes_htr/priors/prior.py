"""A prior on one matrix: statistics with laws, their products, and their strength.

`a & b` multiplies priors; `.scaled(s)` raises to a power, `.scheduled(d)` lets the power decay over
epochs, `.above(t)` lets the penalty act only while it is at least `t`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from bayes_htr.errors import PriorError
from bayes_htr.priors.schedules import Schedule
from bayes_htr.priors.values import Value, number
from bayes_htr.spectra import Need

if TYPE_CHECKING:
    from bayes_htr.priors.statistics import Statistic


class Term(NamedTuple):
    """One statistic of a prior, with the strength and schedules that apply to it."""

    statistic: Statistic
    strength: float = 1.0
    schedules: tuple[Schedule, ...] = ()


class Gate(NamedTuple):
    """The terms (by index) that act only while the sum of their penalties is at least a number."""

    threshold: float
    terms: tuple[int, ...]


class Flat(NamedTuple):
    """A prior taken apart: what an engine evaluates."""

    terms: tuple[Term, ...]
    gates: tuple[Gate, ...]


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
    def flat(self) -> Flat:
        """The prior's terms and gates."""

    @property
    def terms(self) -> tuple[Term, ...]:
        """The statistics with their strengths."""
        return self.flat().terms

    @property
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
        if not all(term.statistic.is_density for term in self.terms):
            return "factor"
        gated = bool(self.flat().gates)
        proper = all(term.statistic.is_proper(term.strength) for term in self.terms)
        return "proper" if proper and not gated else "improper"


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

    def flat(self) -> Flat:
        terms: list[Term] = []
        gates: list[Gate] = []
        for factor in self.factors:
            shift = len(terms)
            inner = factor.flat()
            terms += inner.terms
            gates += [Gate(t, tuple(i + shift for i in index)) for t, index in inner.gates]
        return Flat(tuple(terms), tuple(gates))


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

    def flat(self) -> Flat:
        terms, gates = self.prior.flat()
        return Flat(
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

    def flat(self) -> Flat:
        terms, gates = self.prior.flat()
        return Flat(
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

    def flat(self) -> Flat:
        terms, gates = self.prior.flat()
        return Flat(terms, (*gates, Gate(self.threshold, tuple(range(len(terms))))))


def _factors(prior: Prior) -> Iterator[Prior]:
    if isinstance(prior, Product):
        yield from prior.factors
    else:
        yield prior

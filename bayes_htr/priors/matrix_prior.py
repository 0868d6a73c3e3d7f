"""The prior of one matrix of a network: its densities, its strength, and how to draw from it.

`Priors.resolve` makes a `MatrixPrior` for every matrix, and everything else uses it. A point
estimate needs only an energy (`evaluate` in `evaluation.py`), which every prior has. A posterior
needs a density, and `MatrixPrior.density_at` says which priors are densities: proper laws on a
whole spectrum, on its largest value, or on the entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to

from bayes_htr.errors import PriorError
from bayes_htr.priors.law import Hyperparameter, Law, Shared
from bayes_htr.priors.prior import Gate, Prior, Statistic, Term, Terms
from bayes_htr.priors.schedules import Schedule, factor_at
from bayes_htr.spectra import Need, haar, log_frame_constant, log_jacobian

Values = Mapping[str, Tensor]
"""Hyperparameters by name."""

_FLOAT64 = torch.zeros((), dtype=torch.float64)


def _itself(W: Tensor) -> Tensor:
    return W


@dataclass(frozen=True)
class ResolvedTerm:
    """A statistic of one matrix with its law, strength and hyperparameters.

    Attributes:
        statistic: The statistic with its law.
        strength: The power of the law, before the schedules multiply it.
        schedules: The schedules that multiply the strength from epoch to epoch.
        hyperparameters: The arguments of the law that have hyperpriors, by name of the argument.
    """

    statistic: Statistic
    strength: float
    schedules: tuple[Schedule, ...]
    hyperparameters: Mapping[str, Hyperparameter]

    @cached_property
    def optimised(self) -> dict[str, Hyperparameter]:
        """The hyperparameters that a mode optimises: all except one that is integrated out."""
        if self.statistic.law.conjugate is None:
            return dict(self.hyperparameters)
        return {k: v for k, v in self.hyperparameters.items() if k != "tail_index"}

    def law(self, values: Values, like: Tensor) -> Any:
        """Return the distribution at these hyperparameters.

        Args:
            values: Hyperparameters by name, 0-d or of one batch shape.
            like: A tensor with the precision and the device of the result.
        """
        arguments = self.statistic.law.numbers_like(like)
        for argument, hyperparameter in self.hyperparameters.items():
            arguments[argument] = values[hyperparameter.name].to(like.device)
        return self.statistic.law.distribution_of(arguments)

    def log_prob(self, x: Tensor, values: Values) -> Tensor:
        """Return `strength` times the sum of `log p` over the last dimension of `x`.

        The result is minus infinity where a value lies outside the law's support.
        """
        law = self.law(values, x)
        outside = ~law.support.check(x)
        inside = biject_to(law.support)(x.new_zeros(()))  # some point of the support
        log_p = law.log_prob(torch.where(outside, inside, x))
        return self.strength * torch.where(outside, -torch.inf, log_p).sum(-1)

    def log_factor(self, eigenvalues: Tensor, values: Values) -> Tensor:
        """Return `strength` times the sum of `log p` of a spectral statistic, without any Jacobian.

        Args:
            eigenvalues: `(..., K)`, in any order.
            values: Hyperparameters by name.

        Returns:
            `(...)`.
        """
        return self.log_prob(self.statistic.of_eigenvalues(eigenvalues), values)

    def log_spectral_density(self, eigenvalues: Tensor, values: Values) -> Tensor:
        """Return the log density of the ordered spectrum under this term alone.

        With respect to `d lambda` the density is `K! prod p(lambda)`,
        `K! prod p(sigma) / (2 sigma)`, or `(K-1)! p(lambda_1) lambda_1^-(K-1)`, where the strength
        is a power of `p` alone.
        """
        return self.log_factor(eigenvalues, values) + self.statistic.log_volume(eigenvalues)


@dataclass(frozen=True)
class MatrixPrior:
    """The prior of one matrix, or of a vector, which is seen as one row.

    Attributes:
        name: The matrix's name.
        shape: `(m, n)`.
        stated: The prior as it was written.
        terms: The terms of the prior, each a statistic with its law and strength.
        gates: The terms that act only above a threshold.
        view: The function that returns the matrix in the tensor of its parameter.
        is_vector: Whether the matrix stands for a vector.
        pattern: The pattern that gave the prior.
        factors: The number of columns of `B`, if the matrix is a product `B A`.
    """

    name: str
    shape: tuple[int, int]
    stated: Prior
    terms: tuple[ResolvedTerm, ...]
    gates: tuple[Gate, ...] = ()
    view: Callable[[Tensor], Tensor] = field(default=_itself, compare=False, repr=False)
    is_vector: bool = False
    pattern: str = field(default="", compare=False)
    factors: int | None = None

    @classmethod
    def of(
        cls,
        prior: Prior,
        name: str,
        shape: tuple[int, int],
        *,
        strength: float = 1.0,
        schedules: tuple[Schedule, ...] = (),
        view: Callable[[Tensor], Tensor] = _itself,
        is_vector: bool = False,
        pattern: str = "",
        factors: int | None = None,
    ) -> MatrixPrior:
        """Resolve a prior for one matrix.

        Args:
            prior: The prior.
            name: The matrix's name.
            shape: `(m, n)`.
            strength: The strength of all priors of the network, which multiplies that of `prior`.
            schedules: The schedules of all priors of the network.
            view: The function that returns the matrix in the tensor of its parameter; by default
                the tensor is the matrix.
            is_vector: Whether the matrix stands for a vector.
            pattern: The pattern that gave the prior.
            factors: The number of columns of `B`, if the matrix is a product `B A`.
        """
        terms, gates = prior.decompose()
        hyperparameters = _hyperparameters_of(terms, name)
        return cls(
            name,
            shape,
            prior,
            tuple(
                ResolvedTerm(t.statistic, strength * t.strength, (*schedules, *t.schedules), own)
                for t, own in zip(terms, hyperparameters, strict=True)
            ),
            gates,
            view,
            is_vector,
            pattern,
            factors,
        )

    @property
    def rank(self) -> int:
        """The number `K` of eigenvalues to which the laws apply.

        It is the smaller side of the matrix, or for a product `B A` the number of columns of `B` if
        this is smaller, since the other eigenvalues are always zero.
        """
        return min(self.shape if self.factors is None else (*self.shape, self.factors))

    @property
    def larger(self) -> int:
        """The larger side of the matrix."""
        return max(self.shape)

    @property
    def status(self) -> str:
        """The status as in `Prior.status`, at the strength that all priors together give."""
        terms = (Term(t.statistic, t.strength, t.schedules) for t in self.terms)
        return Terms(tuple(terms), self.gates).status

    @cached_property
    def spectral(self) -> tuple[ResolvedTerm, ...]:
        """The terms on the spectrum.

        The term that determines most of the spectrum comes first. It decides what is sampled, and
        its density includes the Jacobian of its natural coordinate.
        """
        terms = (t for t in self.terms if t.statistic.of_spectrum)
        return tuple(sorted(terms, key=lambda t: t.statistic.precedence))

    @cached_property
    def entries(self) -> tuple[ResolvedTerm, ...]:
        """The terms on the entries."""
        return tuple(t for t in self.terms if not t.statistic.of_spectrum)

    @cached_property
    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """All hyperparameters by name, including one that a mode integrates out."""
        return {h.name: h for term in self.terms for h in term.hyperparameters.values()}

    @cached_property
    def optimised(self) -> dict[str, Hyperparameter]:
        """The hyperparameters that a mode optimises, by name."""
        return {h.name: h for term in self.terms for h in term.optimised.values()}

    def strengths(self, epoch: int | None) -> tuple[float, ...]:
        """Return the strength of each term at an epoch.

        Raises:
            PriorError: A term has a schedule, and no epoch is given.
        """
        return tuple(
            t.strength * factor_at(t.schedules, epoch) if t.schedules else t.strength
            for t in self.terms
        )

    def needs(self, strengths: Sequence[float]) -> Need:
        """Return the parts of the spectrum that the terms of positive strength need."""
        needs = Need()
        for term, strength in zip(self.terms, strengths, strict=True):
            if strength:
                needs |= term.statistic.needs
        return needs

    def density_at(self, epoch: int | None) -> MatrixPrior:
        """Return the prior as a density.

        Its terms are those that act at the epoch, with the strengths that they have there.

        Raises:
            PriorError: The prior is no density, and the message says which one to use instead; or
                it has a schedule, and no epoch is given.
        """
        if self.gates:
            raise PriorError(
                f"{self.name}: {self.stated!r} acts only above a threshold and is no density; "
                "leave out .above(...), as in ESD(Lomax(2.0)), or use htr.MAP"
            )
        strengths = zip(self.terms, self.strengths(epoch), strict=True)
        terms = tuple(replace(t, strength=s, schedules=()) for t, s in strengths if s > 0)
        for term in terms:
            _require_density(term, self.name)
        return replace(self, terms=terms)

    def unscaled_density(self) -> MatrixPrior:
        """Return the density that the prior states at strength 1.

        It does not depend on the strengths and schedules of the prior.

        Raises:
            PriorError: The prior is no density.
        """
        terms = tuple(replace(t, strength=1.0, schedules=()) for t in self.terms if t.strength > 0)
        return replace(self, terms=terms).density_at(None)

    def informing_values(self) -> dict[str, float]:
        """Return the number of values that inform each hyperparameter.

        Under a law `p^s`, one value counts as `s` values.
        """
        counts: dict[str, float] = {}
        for term in (*self.spectral, *self.entries):
            count = term.statistic.num_values(self.shape)
            scored = term.strength * (min(count, self.rank) if term in self.spectral else count)
            for hyperparameter in term.hyperparameters.values():
                counts[hyperparameter.name] = counts.get(hyperparameter.name, 0.0) + scored
        return counts

    def log_spectral_density(self, eigenvalues: Tensor, values: Values) -> Tensor:
        """Return the log density of the ordered spectrum with respect to `d lambda`.

        Args:
            eigenvalues: `(..., K)`, in any order.
            values: Hyperparameters by name.

        Returns:
            `(...)`: the log of the product of all spectral terms. Its constant is left out where
            there are several terms or the strength is not 1. The first term includes the Jacobian
            of its natural coordinate, and the others are functions of the spectrum.
        """
        first, *others = self.spectral
        total = first.log_spectral_density(eigenvalues, values)
        for term in others:
            total = total + term.log_factor(eigenvalues, values)
        return total

    def log_density(self, W: Tensor, values: Values) -> Tensor:
        """Return the log density of the matrix itself, that is, in weight coordinates.

        Spectra are computed in float64 from the smaller Gram matrix. Where two eigenvalues meet,
        the gradient has a pole, and so has the density.

        Args:
            W: `(..., m, n)`.
            values: Hyperparameters by name.

        Returns:
            `(...)`, differentiable; infinite where two eigenvalues are equal.
        """
        total = W.new_zeros(W.shape[:-2])
        if self.spectral:
            eigenvalues = spectrum_of(W)
            density = self.log_spectral_density(eigenvalues, values)
            constant = log_frame_constant(self.rank, self.larger)
            volume = constant + log_jacobian(eigenvalues, self.larger)
            total = total + (density - volume).to(W)
        for term in self.entries:
            total = total + term.log_prob(W.flatten(-2), values)
        return total

    def sample(self, n: int, values: Values) -> Tensor:
        """Draw matrices, `(n, *shape)` in float64, with PyTorch's global generator.

        Singular vectors are uniformly distributed.

        Args:
            n: The number of draws.
            values: Draws `(n,)` of the prior's hyperparameters by name.

        Raises:
            PriorError: The prior cannot be simulated: it is a product, or a power of a law that
                belongs to no known family.
        """
        if self.entries:
            law = self._simulated_law(values)
            size = (n, self.shape[0] * self.shape[1])
            return law.expand(size).sample().unflatten(-1, self.shape)
        eigenvalues = self.sample_spectrum(n, values)
        U, V = (haar(side, self.rank, (n,)) for side in self.shape)
        return (U * eigenvalues.sqrt().unsqueeze(-2)) @ V.mT

    def sample_spectrum(self, n: int, values: Values) -> Tensor:
        """Draw spectra without their matrices, `(n, K)`, in no order; see `sample`.

        The prior has to be on the spectrum.
        """
        law, statistic = self._simulated_law(values), self.spectral[0].statistic
        if not statistic.of_largest:
            return statistic.to_eigenvalues(law.expand((n, self.rank)).sample())
        top = law.expand((n, 1)).sample()
        return torch.cat([top, top * torch.rand(n, self.rank - 1, dtype=top.dtype)], dim=1)

    def _simulated_law(self, values: Values) -> Any:
        """Return the distribution to draw from.

        It has one batch element for each draw of the hyperparameters.
        """
        if len(self.terms) > 1:
            raise PriorError(
                f"{self.name}: a product of priors has no simulator; draw from one factor, or "
                "sample the product with htr.NUTS"
            )
        (term,) = self.terms
        if term.strength == 1:
            names = [h.name for h in term.hyperparameters.values()]
            return term.law({name: values[name].unsqueeze(-1) for name in names}, _FLOAT64)
        if term.hyperparameters:
            raise PriorError(
                f"{self.name}: {term.statistic!r} has hyperpriors and the strength "
                f"{term.strength:g}: it cannot be simulated; take strength 1, or numbers, or "
                "sample it with htr.NUTS"
            )
        from bayes_htr.priors.tempered import tempered_distribution  # which loads Pyro

        try:
            return tempered_distribution(term.statistic.law, term.strength)
        except PriorError as error:
            raise PriorError(f"{self.name}: {error}") from error


def spectrum_of(W: Tensor) -> Tensor:
    """Return the eigenvalues of `W'W` in float64, descending: `(..., K)`, differentiable."""
    wide = W.double() if W.shape[-2] <= W.shape[-1] else W.double().mT
    return torch.linalg.eigvalsh(wide @ wide.mT).flip(-1).clamp(min=torch.finfo(torch.float64).tiny)


def _require_density(term: ResolvedTerm, name: str) -> None:
    """Raise unless a term is a proper density of a matrix."""
    statistic, law = term.statistic, term.statistic.law
    power = "" if term.strength == 1 else f" at strength {term.strength:g}"
    if not statistic.is_density:
        reason = "is a factor and no density"
    elif law.hill is not None:
        reason = "takes its exponent from the matrix itself"
    elif statistic.scores_part:
        reason = "scores the upper tail alone"
    elif not statistic.is_proper(term.strength):
        reason = f"has no finite integral{power}"
    else:
        return
    proper = statistic.proper_example(max(2.0, math.ceil(20 / term.strength) / 10))
    raise PriorError(
        f"{name}: {statistic!r} {reason}; take {proper}{power}. MAP takes it as it is; what needs "
        "a density does not"
    )


def _hyperparameters_of(terms: Sequence[Term], matrix: str) -> list[dict[str, Hyperparameter]]:
    """Return the hyperparameters of each term of a prior on a matrix, by name of the argument.

    Args:
        terms: The terms.
        matrix: The name of the matrix, which is part of the names of its own hyperparameters.
    """
    hyperparameters: list[dict[str, Hyperparameter]] = []
    seen: dict[str, int] = {}
    for term in terms:
        kind = type(term.statistic).__name__
        seen[kind] = seen.get(kind, 0) + 1
        label = kind if seen[kind] == 1 else f"{kind}{seen[kind]}"
        own = {}
        for argument, stated in term.statistic.law.hyperpriors.items():
            law = stated if isinstance(stated, Law) else stated.law
            name = stated.name if isinstance(stated, Shared) else f"{matrix}:{label}.{argument}"
            own[argument] = Hyperparameter(name, law)
        hyperparameters.append(own)
    return hyperparameters

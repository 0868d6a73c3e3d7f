"""A prior as a density: what of it has a law that can be normalised, simulated and sampled.

`"map"` takes any energy. The other two coordinates need densities, and this module says which
priors are: proper laws of a whole spectrum, of its largest value, or of the entries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to

from bayes_htr.engine.latents import Latent, latents_of
from bayes_htr.errors import PriorError
from bayes_htr.priors import Law, Prior, Statistic, factor_at
from bayes_htr.spectra.volume import log_frame_constant, log_jacobian

Values = Mapping[str, Tensor]
"""Hyperparameters by name."""


@dataclass(frozen=True)
class DensityTerm:
    """A statistic with its law, as a factor of a density.

    Attributes:
        statistic: The statistic.
        strength: The power of its law.
        latents: Its hyperparameters by argument; unlike in `"map"`, a Gamma tail index is one.
    """

    statistic: Statistic
    strength: float
    latents: Mapping[str, Latent]

    def law(self, values: Values, like: Tensor) -> Any:
        """The law at given hyperparameters, in the precision and on the device of `like`."""
        given = {a: values[latent.name].to(like.device) for a, latent in self.latents.items()}
        return self.statistic.law.distribution_of(_numbers(self.statistic.law, like) | given)

    def log_prob(self, x: Tensor, values: Values) -> Tensor:
        """`strength` times the sum of `log p` over the last dimension of `x`.

        Minus infinity where a value lies outside the law's support.
        """
        law = self.law(values, x)
        outside = ~law.support.check(x)
        inside = biject_to(law.support)(x.new_zeros(()))  # some point of the support
        log_p = law.log_prob(torch.where(outside, inside, x))
        return self.strength * torch.where(outside, -torch.inf, log_p).sum(-1)

    def log_factor(self, eigenvalues: Tensor, values: Values) -> Tensor:
        """`strength` times the sum of `log p` of a spectral statistic, without any Jacobian.

        Args:
            eigenvalues: `(..., K)`, in any order.
            values: Hyperparameters by name.

        Returns:
            `(...)`.
        """
        return self.log_prob(self.statistic.of_eigenvalues(eigenvalues), values)


@dataclass(frozen=True)
class MatrixPrior:
    """The density of one matrix (or vector): factors on its spectrum, and on its entries.

    Attributes:
        name: The matrix's name.
        shape: `(m, n)`; a vector is one row.
        spectral: Factors on the spectrum, that which says most of it first: it decides what is
            sampled, and has the Jacobian of its natural coordinate.
        entries: Factors on the entries.
        vector: Whether it is a vector, seen as one row.
    """

    name: str
    shape: tuple[int, int]
    spectral: tuple[DensityTerm, ...]
    entries: tuple[DensityTerm, ...]
    vector: bool = False

    @classmethod
    def of(
        cls,
        prior: Prior,
        name: str,
        shape: tuple[int, int],
        strength: float = 1.0,
        epoch: int | None = None,
        *,
        vector: bool = False,
    ) -> MatrixPrior:
        """Take a prior apart.

        Args:
            prior: The prior.
            name: The matrix's name.
            shape: Its shape.
            strength: Of all priors.
            epoch: Counted from 0; needed where the prior is scheduled.
            vector: Whether it is a vector, seen as one row.

        Raises:
            PriorError: It is no density, and what to take instead.
        """
        flat = prior.flat()
        if flat.gates:
            raise PriorError(
                f"{name}: {prior!r} acts only above a threshold and is no density; leave out "
                ".above(...), as in ESD(Lomax(2.0)), or use htr.MAP"
            )
        all_terms = [
            DensityTerm(t.statistic, strength * t.strength * factor_at(t.schedules, epoch), own)
            for t, own in zip(flat.terms, latents_of(prior, name, conjugate=True), strict=True)
        ]
        terms = [term for term in all_terms if term.strength > 0]
        for term in terms:
            _require_density(term, name)
        return cls(
            name,
            shape,
            tuple(sorted((t for t in terms if t.statistic.of_spectrum), key=_precedence)),
            tuple(t for t in terms if not t.statistic.of_spectrum),
            vector,
        )

    @property
    def smaller(self) -> int:
        """The smaller side."""
        return min(self.shape)

    @property
    def larger(self) -> int:
        """The larger side."""
        return max(self.shape)

    @property
    def latents(self) -> dict[str, Latent]:
        """Its hyperparameters by name."""
        terms = (*self.spectral, *self.entries)
        return {x.name: x for term in terms for x in term.latents.values()}

    def informing_values(self) -> dict[str, float]:
        """From how many values its hyperparameters are inferred; `p^s` counts one `s` times."""
        counts: dict[str, float] = {}
        for term in (*self.spectral, *self.entries):
            scored = term.statistic.num_values(self.shape)
            for latent in term.latents.values():
                counts[latent.name] = counts.get(latent.name, 0.0) + term.strength * scored
        return counts

    def log_spectral_density(self, eigenvalues: Tensor, values: Values) -> Tensor:
        """The log density of the ordered spectrum with respect to `d lambda`.

        Args:
            eigenvalues: `(..., K)`, in any order.
            values: Hyperparameters by name.

        Returns:
            `(...)`. The product of all spectral factors, without its constant where there are
            several or the strength is not 1. The first has the Jacobian of its natural coordinate,
            the others are functions of the spectrum.
        """
        first, *others = self.spectral
        total = spectral_log_prob(first, eigenvalues, values)
        for term in others:
            total = total + term.log_factor(eigenvalues, values)
        return total

    def log_density(self, W: Tensor, values: Values) -> Tensor:
        """The log density of the matrix itself: weight coordinates.

        Spectra are taken in float64 through the smaller Gram matrix; the gradient has poles
        where eigenvalues meet, as the density has.

        Args:
            W: `(..., m, n)`.
            values: Hyperparameters by name.

        Returns:
            `(...)`, differentiable. Infinite where two eigenvalues are equal.
        """
        total = W.new_zeros(W.shape[:-2])
        if self.spectral:
            lam = spectrum_of(W)
            density = self.log_spectral_density(lam, values)
            volume = log_frame_constant(self.smaller, self.larger) + log_jacobian(lam, self.larger)
            total = total + (density - volume).to(W)
        for term in self.entries:
            total = total + term.log_prob(W.flatten(-2), values)
        return total


def hyperprior(latent: Latent, like: Tensor) -> Any:
    """The law of a hyperparameter, in the precision and on the device of `like`."""
    return latent.law.distribution_of(_numbers(latent.law, like))


def _numbers(law: Law, like: Tensor) -> dict[str, Tensor]:
    return {k: like.new_tensor(v) for k, v in law.arguments.items() if isinstance(v, float)}


def spectrum_of(W: Tensor) -> Tensor:
    """The eigenvalues of `W'W` in float64, descending: `(..., K)`, differentiable."""
    wide = W.double() if W.shape[-2] <= W.shape[-1] else W.double().mT
    return torch.linalg.eigvalsh(wide @ wide.mT).flip(-1).clamp(min=torch.finfo(torch.float64).tiny)


def spectral_log_prob(term: DensityTerm, eigenvalues: Tensor, values: Values) -> Tensor:
    """The density of the ordered spectrum under one factor, with respect to `d lambda`.

    `K! prod p(lambda)`, `K! prod p(sigma) / (2 sigma)`, or `(K-1)! p(lambda_1) lambda_1^-(K-1)`;
    strength is a power of `p` alone.
    """
    return term.log_factor(eigenvalues, values) + term.statistic.log_volume(eigenvalues)


def _precedence(term: DensityTerm) -> int:
    return term.statistic.precedence


def _require_density(term: DensityTerm, name: str) -> None:
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
    raise PriorError(
        f"{name}: {statistic!r} {reason}; take {_proper_instead(term)}{power}. MAP takes it as it "
        "is; what needs a density does not"
    )


def _proper_instead(term: DensityTerm) -> str:
    """A prior on the same statistic that is proper at the same strength."""
    return term.statistic.proper_example(max(2.0, math.ceil(20 / term.strength) / 10))

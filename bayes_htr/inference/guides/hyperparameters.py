"""Posteriors of hyperparameters in guides, and the evidence from which they are inferred.

`HyperparameterPosterior` is learnt by gradients. `SpectralHyperparameters` adds posteriors that
follow in closed form from those of spectra. `FrozenEvidence` has the values of frozen parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Gamma as GammaLaw
from torch.distributions import Normal, biject_to, kl_divergence

from bayes_htr.errors import PriorError
from bayes_htr.priors import Gamma, Hyperparameter, ParameterPrior, ResolvedTerm
from bayes_htr.priors.heavy_tailed_laws import TailIndexed
from bayes_htr.priors.matrix_prior import spectrum_of

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
_START_SCALE = 0.1
_CACHED_DRAWS = 16


@dataclass(frozen=True)
class HyperparameterMoments:
    """The hyperparameters at which priors are scored.

    Attributes:
        values: The values by name, 0-d, or `(J, 1, 1)` for an average over `J` values.
        gammas: The moments `(E t, E log t)` of tail indices with a Gamma posterior, by name.
    """

    values: Mapping[str, Tensor] = field(default_factory=dict)
    gammas: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def log_prob(self, term: ResolvedTerm, x: Tensor) -> Tensor:
        """Return `strength E log p(x)` for each element of `x`.

        If the hyperparameter is a tail index `t`, the log density is affine in `t` and `log t`:
        `log p(x | t) = log p(x | 1) + log t - (t - 1) r(x)`.
        """
        tail_index = term.hyperparameters.get("tail_index")
        if tail_index is None or tail_index.name not in self.gammas:
            return term.strength * term.law(self.values, x).log_prob(x)
        mean, mean_log = self.gammas[tail_index.name]
        at_one = term.law({**self.values, tail_index.name: x.new_ones(())}, x).log_prob(x)
        r = log_ratio(term, x, self.values)
        return term.strength * (at_one + mean_log - (mean - 1) * r)


def log_ratio(term: ResolvedTerm, x: Tensor, values: Mapping[str, Tensor]) -> Tensor:
    """Return `r(x)` of a law with `P(X > x) = exp(-tail_index r(x))`, for each element of `x`."""
    law = term.statistic.law
    assert isinstance(law, TailIndexed)
    arguments: dict[str, Tensor | float] = {**law.numbers}
    arguments |= {k: values[h.name] for k, h in term.hyperparameters.items() if h.name in values}
    return law.log_ratio(x, arguments)


class HyperparameterPosterior(nn.Module):
    """Independent posteriors of hyperparameters, learnt by gradients.

    A hyperparameter with a Gamma hyperprior has a Gamma posterior. For the tail index of a power
    law, this is the family of its exact conditional. Any other posterior is a normal law in the
    unconstrained coordinate of `biject_to`, which is log-normal for a positive hyperparameter.

    Args:
        hyperparameters: The hyperparameters by name.
        start: The initial unconstrained coordinates by name; by default `Hyperparameter.start`.
        like: A tensor with the dtype and the device of the parameters.
        counts: The number of values from which each hyperparameter is inferred, by name; 0 if not
            given. It determines the initial width of the posterior.
    """

    def __init__(
        self,
        hyperparameters: Mapping[str, Hyperparameter],
        start: Mapping[str, Tensor],
        like: Tensor,
        counts: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.hyperparameters = dict(hyperparameters)
        self.laws = nn.ParameterList(
            _started(h, start.get(name, h.start()).to(like), (counts or {}).get(name, 0.0))
            for name, h in self.hyperparameters.items()
        )

    def rsample(self) -> dict[str, Tensor]:
        """Draw each hyperparameter, 0-d, with gradient, with PyTorch's global generator."""
        draw = {}
        for name, law in self.by_name().items():
            x = law.rsample()
            draw[name] = x if isinstance(law, GammaLaw) else self._transform(name, x)(x)
        return draw

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw each hyperparameter, 0-d, without gradient; the generator is on the CPU."""
        draw = {}
        with torch.no_grad():
            for name, law in self.by_name().items():
                if isinstance(law, GammaLaw):
                    draw[name] = gamma_draw(law, generator)
                    continue
                noise = torch.randn((), generator=generator, dtype=law.loc.dtype)
                u = law.loc + law.scale * noise.to(law.loc)
                draw[name] = self._transform(name, u)(u)
        return draw

    def centre(self) -> dict[str, Tensor]:
        """Return the means of Gamma laws, and the medians of the others."""
        with torch.no_grad():
            return {
                name: law.mean
                if isinstance(law, GammaLaw)
                else self._transform(name, law.loc)(law.loc)
                for name, law in self.by_name().items()
            }

    def middles(self) -> Tensor:
        """Return the locations `(n,)`, without gradient.

        For a Gamma law, the location is the logarithm of the mean.
        """
        middles = [
            numbers[1] if isinstance(h.law, Gamma) else numbers[0]
            for h, numbers in zip(self.hyperparameters.values(), self.laws, strict=True)
        ]
        return torch.stack(middles).detach()

    def kl(self) -> Tensor:
        """Return `KL(guide | hyperpriors)`.

        It has a closed form for Gamma laws, and is computed by Gauss-Hermite sums for others.
        """
        total = torch.zeros((), dtype=torch.float64)
        for name, law in self.by_name().items():
            hyperparameter = self.hyperparameters[name]
            if isinstance(law, GammaLaw):
                kl = kl_divergence(law, hyperparameter.distribution(law.rate))
            else:
                u = law.loc + law.scale * law.loc.new_tensor(_NODES)
                kl = (
                    hyperparameter.energy(u) @ u.new_tensor(_WEIGHTS / _WEIGHTS.sum())
                    - law.entropy()
                )
            total = total.to(kl.device) + kl.double()
        return total

    def by_name(self) -> dict[str, GammaLaw | Normal]:
        """Return the laws: Gamma laws of values, normal laws of unconstrained coordinates."""
        laws: dict[str, GammaLaw | Normal] = {}
        for (name, h), numbers in zip(self.hyperparameters.items(), self.laws, strict=True):
            if isinstance(h.law, Gamma):
                concentration, mean = numbers.exp()
                laws[name] = GammaLaw(concentration, concentration / mean)
            else:
                laws[name] = Normal(numbers[0], numbers[1].exp())
        return laws

    def _transform(self, name: str, like: Tensor) -> torch.distributions.Transform:
        transform: torch.distributions.Transform = biject_to(
            self.hyperparameters[name].distribution(like).support
        )
        return transform


def gamma_draw(law: GammaLaw, generator: torch.Generator) -> Tensor:
    """Draw from a Gamma law, 0-d, without gradient, with a generator on the CPU."""
    rate = law.rate.detach()
    unit = torch._standard_gamma(law.concentration.detach().cpu(), generator=generator)
    return unit.to(rate) / rate


def _started(hyperparameter: Hyperparameter, u: Tensor, count: float) -> nn.Parameter:
    """Return the initial parameters of a posterior: two logarithms, or a location and a log scale.

    The logarithms are those of the concentration and the mean of a Gamma law, which are orthogonal
    parameters. The width is about that of the posterior of a logarithm after `count` values.
    """
    if isinstance(hyperparameter.law, Gamma):
        shape, _ = hyperparameter.law.concentration_and_rate()
        concentration = u.new_tensor(shape + count)
        return nn.Parameter(torch.stack([concentration.log(), u]))
    scale = min(_START_SCALE, 1 / math.sqrt(max(count, 1.0)))
    return nn.Parameter(torch.stack([u, u.new_tensor(scale).log()]))


class Update(NamedTuple):
    """The numbers that spectra add to the concentration and to the rate of a Gamma law."""

    concentration: float
    rate: Tensor


class SpectralHyperparameters(nn.Module):
    """Independent posteriors of hyperparameters beside posteriors of spectra.

    If a hyperparameter with a Gamma hyperprior is only the tail index of laws of spectra, its best
    posterior given those of the spectra is `Gamma(a + s K, b + s E sum r(lambda))`, and is not
    learnt. The posteriors of all other hyperparameters are learnt.

    Args:
        hyperparameters: The hyperparameters by name.
        conjugate: The names of the hyperparameters whose posteriors follow from the spectra.
        start: The initial unconstrained coordinates of the others by name, not necessarily of all.
        like: A tensor with the dtype and the device of the parameters.
        counts: The number of values from which each hyperparameter is inferred, by name.
    """

    def __init__(
        self,
        hyperparameters: Mapping[str, Hyperparameter],
        conjugate: tuple[str, ...],
        start: Mapping[str, Tensor],
        like: Tensor,
        counts: Mapping[str, float],
    ) -> None:
        super().__init__()
        self.conjugate = {name: hyperparameters[name] for name in conjugate}
        learnt = {name: h for name, h in hyperparameters.items() if name not in conjugate}
        self.learnt = HyperparameterPosterior(learnt, start, like, counts)

    @property
    def are_learnt(self) -> bool:
        """Whether any posterior is learnt."""
        return bool(self.learnt.hyperparameters)

    def conditional(self, updates: Mapping[str, Update]) -> dict[str, GammaLaw]:
        """Return the posteriors that follow from the spectra, by name, in float64."""
        laws = {}
        for name, hyperparameter in self.conjugate.items():
            assert isinstance(hyperparameter.law, Gamma)
            a, b = hyperparameter.law.concentration_and_rate()
            rate = b + updates[name].rate
            laws[name] = GammaLaw(rate.new_tensor(a + updates[name].concentration), rate)
        return laws

    def rsample(self, conditional: Mapping[str, GammaLaw]) -> dict[str, Tensor]:
        """Draw each hyperparameter, 0-d, with gradient, with PyTorch's global generator."""
        return {name: law.rsample() for name, law in conditional.items()} | self.learnt.rsample()

    def draw(
        self, conditional: Mapping[str, GammaLaw], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Draw each hyperparameter, 0-d, without gradient; the generator is on the CPU."""
        draws = {name: gamma_draw(law, generator) for name, law in conditional.items()}
        return draws | self.learnt.draw(generator)

    def centre(self, conditional: Mapping[str, GammaLaw]) -> dict[str, Tensor]:
        """Return the means of Gamma laws, and the medians of the others."""
        return {name: law.mean for name, law in conditional.items()} | self.learnt.centre()

    def moments(
        self, values: Mapping[str, Tensor], conditional: Mapping[str, GammaLaw]
    ) -> HyperparameterMoments:
        """Return the moments at which spectra are scored.

        They are the `values` themselves, and the moments of Gamma posteriors.
        """
        learnt = self.learnt.by_name()
        gammas = {n: law for n, law in learnt.items() if isinstance(law, GammaLaw)}
        gamma_moments = {
            name: (law.mean.double(), (law.concentration.digamma() - law.rate.log()).double())
            for name, law in (gammas | dict(conditional)).items()
        }
        return HyperparameterMoments({n: values[n].double() for n in learnt}, gamma_moments)

    @torch.no_grad()
    def average_moments(self, conditional: Mapping[str, GammaLaw]) -> HyperparameterMoments:
        """Return the moments for cached gradients.

        Spectra are scored by an average over draws, which always have the same noise.
        """
        generator = torch.Generator().manual_seed(0)
        draws = [self.learnt.draw(generator) for _ in range(_CACHED_DRAWS)]
        values = {name: torch.stack([d[name] for d in draws])[:, None, None] for name in draws[0]}
        return self.moments(values, conditional)

    def kl(self, conditional: Mapping[str, GammaLaw]) -> Tensor:
        """Return `KL(guide | hyperpriors)`: 0-d, float64."""
        total = self.learnt.kl()
        for name, law in conditional.items():
            kl = kl_divergence(law, self.conjugate[name].distribution(law.rate))
            total = total.to(kl.device) + kl
        return total


def conjugate_names(parameters: Iterable[ParameterPrior]) -> tuple[str, ...]:
    """Return the hyperparameters with a Gamma hyperprior that are only tail indices.

    Their laws have to be laws of spectra. A tail index is left out if its law has another
    hyperparameter, on which the update would depend.
    """
    uses: dict[str, list[bool]] = {}
    for matrix in (m for p in parameters for m in p.matrices):
        for term in (*matrix.spectral, *matrix.entries):
            for argument, hyperparameter in term.hyperparameters.items():
                is_alone = argument == "tail_index" and len(term.hyperparameters) == 1
                fits = is_alone and term.statistic.of_spectrum
                fits = fits and isinstance(hyperparameter.law, Gamma)
                uses.setdefault(hyperparameter.name, []).append(fits)
    return tuple(name for name, fits in uses.items() if all(fits))


class FrozenEvidence(nn.Module):
    """The values of frozen parameters, which are evidence about hyperparameters.

    The module has no state of its own, because the values are those of the network.

    Args:
        parameters: The frozen parameters with their densities.

    Raises:
        PriorError: A value lies outside the support of its law.
    """

    def __init__(self, parameters: Iterable[ParameterPrior]) -> None:
        super().__init__()
        self.terms: list[ResolvedTerm] = []
        for p in parameters:
            parts = p.split(p.parameter.tensor.detach())
            for matrix in p.matrices:
                for term in (*matrix.spectral, *matrix.entries):
                    if term.hyperparameters:
                        self._add(term, matrix.name, parts[matrix.name])

    def _add(self, term: ResolvedTerm, name: str, W: Tensor) -> None:
        x = _statistic(term, W)
        values = {h.name: h.value(x.new_zeros(())) for h in term.hyperparameters.values()}
        if not bool(term.law(values, x).support.check(x).all()):
            raise PriorError(
                f"{name} is frozen and has values outside of the support of {term.statistic!r}, "
                "so that it says nothing about the hyperparameters; give it another prior, or "
                "train it"
            )
        self.register_buffer(f"values{len(self.terms)}", x, persistent=False)
        self.terms.append(term)

    def scored(self) -> Iterator[tuple[ResolvedTerm, Tensor]]:
        """Yield each law with the values that it scores, `(count,)` float64."""
        for i, term in enumerate(self.terms):
            yield term, self.get_buffer(f"values{i}")

    def energy(self, moments: HyperparameterMoments) -> Tensor:
        """Return `-E log p` of all values, 0-d float64, with gradient to the hyperparameters."""
        total = torch.zeros((), dtype=torch.float64)
        for term, x in self.scored():
            energy = -moments.log_prob(term, x).sum()
            total = total.to(energy.device) + energy
        return total


def _statistic(term: ResolvedTerm, W: Tensor) -> Tensor:
    if not term.statistic.of_spectrum:
        return W.flatten().double()
    return term.statistic.of_eigenvalues(spectrum_of(W))

"""The variational laws of hyperparameters that have hyperpriors.

A hyperparameter with a Gamma hyperprior has a Gamma law, any other a normal one in its
unconstrained coordinate. Where a Gamma hyperparameter is nothing but the tail index of laws of
spectra, its best law given those of the spectra is known, `Gamma(a + s K, b + s E sum r(lambda))`,
and is taken; else the law is learnt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Gamma as GammaLaw
from torch.distributions import biject_to, kl_divergence

from bayes_htr.engine.latents import Latent
from bayes_htr.inference.guides.spectrum_law import Given
from bayes_htr.models.matrix_prior import hyperprior
from bayes_htr.priors import Gamma

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(20)
_HELD_DRAWS = 16
_START_SCALE = 0.3


class Update(NamedTuple):
    """What data add to a Gamma law: to its concentration and to its rate."""

    concentration: float
    rate: Tensor


class Hyperparameters(nn.Module):
    """Independent laws of hyperparameters, in float64.

    Args:
        latents: The hyperparameters by name.
        conjugate: Those of them whose law follows from those of the spectra.
    """

    def __init__(self, latents: Mapping[str, Latent], conjugate: tuple[str, ...]) -> None:
        super().__init__()
        self.latents = dict(latents)
        self.conjugate = conjugate
        self.learnt = tuple(n for n in latents if n not in conjugate)
        self.laws = nn.ParameterList(self._start(self.latents[name]) for name in self.learnt)

    def gammas(self, updates: Mapping[str, Update]) -> dict[str, GammaLaw]:
        """All Gamma laws by name, given those updates that follow from the spectra."""
        found = {}
        for name, latent in self.latents.items():
            if not isinstance(latent.law, Gamma):
                continue
            if name in self.conjugate:
                a, b = latent.law.numbers()
                rate = b + updates[name].rate
                found[name] = GammaLaw(rate.new_tensor(a + updates[name].concentration), rate)
            else:
                found[name] = GammaLaw(*self._numbers(name).exp())
        return found

    def sample(
        self, gammas: Mapping[str, GammaLaw], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """One draw of each, 0-d: with gradient, or without from a generator."""
        found = {}
        for name in self.latents:
            if name in gammas:
                law = gammas[name]
                found[name] = law.rsample() if generator is None else _drawn(law, (), generator)
            else:
                found[name] = self._value(name, _normal((), generator).to(self._numbers(name)))
        return found

    def centre(self, gammas: Mapping[str, GammaLaw]) -> dict[str, Tensor]:
        """Means of Gamma laws, medians of others."""
        zero = torch.zeros((), dtype=torch.float64)
        return {
            name: gammas[name].mean if name in gammas else self._value(name, zero)
            for name in self.latents
        }

    def held(self, gammas: Mapping[str, GammaLaw]) -> Given:
        """What gradients are held at: an average over draws, always of the same noise."""
        generator = torch.Generator().manual_seed(0)
        shape = (_HELD_DRAWS, 1, 1)
        values = {}
        for name in self.learnt:
            if name in gammas:
                values[name] = _drawn(gammas[name], shape, generator)
            else:
                noise = _normal(shape, generator).to(self._numbers(name))
                values[name] = self._value(name, noise).detach()
        return self.given(values, {n: GammaLaw(*_detached(g)) for n, g in gammas.items()})

    def given(self, values: Mapping[str, Tensor], gammas: Mapping[str, GammaLaw]) -> Given:
        """Hyperparameters to score spectra at: these values, but Gamma tail indices in the mean."""
        moments = {n: (g.mean, g.concentration.digamma() - g.rate.log()) for n, g in gammas.items()}
        return Given({n: values[n].double() for n in self.learnt}, moments)

    def divergence(self, gammas: Mapping[str, GammaLaw]) -> Tensor:
        """`KL(guide | hyperpriors)`: 0-d."""
        total = torch.zeros((), dtype=torch.float64)
        for name, latent in self.latents.items():
            if name in gammas:
                law = gammas[name]
                total = kl_divergence(law, hyperprior(latent, law.rate)) + total.to(law.rate)
                continue
            loc, log_scale = self._numbers(name)
            u = loc + log_scale.exp() * loc.new_tensor(_NODES)
            energy = latent.energy(u) @ loc.new_tensor(_WEIGHTS / _WEIGHTS.sum())
            entropy = torch.distributions.Normal(loc, log_scale.exp()).entropy()
            total = energy - entropy + total.to(loc)
        return total

    def _start(self, latent: Latent) -> nn.Parameter:
        if isinstance(latent.law, Gamma):
            return nn.Parameter(torch.tensor(latent.law.numbers(), dtype=torch.float64).log())
        scale = torch.tensor(_START_SCALE, dtype=torch.float64)
        return nn.Parameter(torch.stack([latent.start().double(), scale.log()]))

    def _numbers(self, name: str) -> Tensor:
        return self.laws[self.learnt.index(name)]

    def _value(self, name: str, noise: Tensor) -> Tensor:
        loc, log_scale = self._numbers(name)
        law = hyperprior(self.latents[name], loc)
        value: Tensor = biject_to(law.support)(loc + log_scale.exp() * noise.to(loc))
        return value


def _detached(law: GammaLaw) -> tuple[Tensor, Tensor]:
    return law.concentration.detach(), law.rate.detach()


def _normal(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _drawn(law: GammaLaw, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draws without gradient from a generator on the CPU."""
    concentration, rate = _detached(law)
    drawn = torch._standard_gamma(concentration.cpu().expand(shape), generator=generator)
    return drawn.to(rate) / rate

"""The variational laws of hyperparameters that have hyperpriors.

A Gamma law under a Gamma hyperprior, which is the family of its exact conditional where it is the
tail index of a power law. Else a normal law in the unconstrained coordinate of `biject_to`: for a
positive hyperparameter, a log-normal one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Gamma, Normal, biject_to, kl_divergence

from bayes_htr.engine.latents import Latent
from bayes_htr.models.matrix_prior import hyperprior
from bayes_htr.priors import Gamma as GammaPrior

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
_START_SCALE = 0.1


class LatentLaws(nn.Module):
    """Independent laws of hyperparameters.

    Args:
        latents: The hyperparameters by name.
        start: Where they start, by name, unconstrained; else where `Latent.start` says.
        like: Of their dtype and device.
        counts: How many values each is inferred from, by name, on which depends how wide its law
            is at the start; 0 if not given.
    """

    def __init__(
        self,
        latents: Mapping[str, Latent],
        start: Mapping[str, Tensor],
        like: Tensor,
        counts: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.latents = dict(latents)
        self.laws = nn.ParameterList(
            _started(
                latent, start.get(name, latent.start()).to(like), (counts or {}).get(name, 0.0)
            )
            for name, latent in self.latents.items()
        )

    def rsample(self) -> dict[str, Tensor]:
        """One draw of each, 0-d, with gradient, from Torch's global generator."""
        found = {}
        for name, law in self._all().items():
            x = law.rsample()
            found[name] = x if isinstance(law, Gamma) else self._transform(name, x)(x)
        return found

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """One draw of each, 0-d, without gradient; the generator is on the CPU."""
        found = {}
        with torch.no_grad():
            for name, law in self._all().items():
                if isinstance(law, Gamma):
                    found[name] = gamma_draw(law, generator)
                    continue
                noise = torch.randn((), generator=generator, dtype=law.loc.dtype)
                u = law.loc + law.scale * noise.to(law.loc)
                found[name] = self._transform(name, u)(u)
        return found

    def centre(self) -> dict[str, Tensor]:
        """Means of Gamma laws, medians of others."""
        with torch.no_grad():
            return {
                name: law.mean
                if isinstance(law, Gamma)
                else self._transform(name, law.loc)(law.loc)
                for name, law in self._all().items()
            }

    def middles(self) -> Tensor:
        """`(n,)` locations, of Gamma laws the logarithms of their means, without gradient."""
        found = [
            numbers[1] if isinstance(latent.law, GammaPrior) else numbers[0]
            for latent, numbers in zip(self.latents.values(), self.laws, strict=True)
        ]
        return torch.stack(found).detach()

    def divergence(self) -> Tensor:
        """`KL(guide | hyperpriors)`: closed for Gamma laws, else by Gauss-Hermite quadrature."""
        total = torch.zeros((), dtype=torch.float64)
        for name, law in self._all().items():
            latent = self.latents[name]
            if isinstance(law, Gamma):
                kl = kl_divergence(law, hyperprior(latent, law.rate))
            else:
                u = law.loc + law.scale * law.loc.new_tensor(_NODES)
                kl = latent.energy(u) @ u.new_tensor(_WEIGHTS / _WEIGHTS.sum()) - law.entropy()
            total = total.to(kl.device) + kl.double()
        return total

    def laws_by_name(self) -> dict[str, Gamma | Normal]:
        """The laws: of Gamma ones the value's, of others that of its unconstrained coordinate."""
        return self._all()

    def _all(self) -> dict[str, Gamma | Normal]:
        found: dict[str, Gamma | Normal] = {}
        for (name, latent), numbers in zip(self.latents.items(), self.laws, strict=True):
            if isinstance(latent.law, GammaPrior):
                concentration, mean = numbers.exp()
                found[name] = Gamma(concentration, concentration / mean)
            else:
                found[name] = Normal(numbers[0], numbers[1].exp())
        return found

    def _transform(self, name: str, like: Tensor) -> torch.distributions.Transform:
        transform: torch.distributions.Transform = biject_to(
            hyperprior(self.latents[name], like).support
        )
        return transform


def gamma_draw(law: Gamma, generator: torch.Generator) -> Tensor:
    """One draw, 0-d, without gradient, from a generator on the CPU."""
    rate = law.rate.detach()
    unit = torch._standard_gamma(law.concentration.detach().cpu(), generator=generator)
    return unit.to(rate) / rate


def _started(latent: Latent, u: Tensor, count: float) -> nn.Parameter:
    """Logarithms of concentration and mean, which are orthogonal, or a location and log scale.

    As wide as `count` values leave the logarithm of a scale or tail index, but for a factor.
    """
    if isinstance(latent.law, GammaPrior):
        concentration = u.new_tensor(latent.law.numbers()[0] + count)
        return nn.Parameter(torch.stack([concentration.log(), u]))
    scale = min(_START_SCALE, 1 / math.sqrt(max(count, 1.0)))
    return nn.Parameter(torch.stack([u, u.new_tensor(scale).log()]))

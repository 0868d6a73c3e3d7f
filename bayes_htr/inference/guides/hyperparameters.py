"""The variational laws of hyperparameters beside a law of the spectra.

Where a Gamma hyperparameter is nothing but the tail index of laws of spectra, its best law given
those of the spectra is known, `Gamma(a + s K, b + s E sum r(lambda))`, and is taken; else the law
is learnt (`latent_laws`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Gamma as GammaLaw
from torch.distributions import kl_divergence

from bayes_htr.engine.latents import Latent
from bayes_htr.inference.guides.latent_laws import LatentLaws, gamma_draw
from bayes_htr.inference.guides.spectrum_law import Given
from bayes_htr.models.matrix_prior import hyperprior
from bayes_htr.models.placed import PlacedParameter
from bayes_htr.priors import Gamma

_HELD_DRAWS = 16


class Update(NamedTuple):
    """What spectra add to a Gamma law: to its concentration and to its rate."""

    concentration: float
    rate: Tensor


class Hyperparameters(nn.Module):
    """Independent laws of hyperparameters.

    Args:
        latents: The hyperparameters by name.
        conjugate: Those of them whose law follows from those of the spectra.
        start: Where the others start, by name, unconstrained; may lack some.
        like: Of the dtype and device of those that are learnt.
        counts: How many values each is inferred from.
    """

    def __init__(
        self,
        latents: Mapping[str, Latent],
        conjugate: tuple[str, ...],
        start: Mapping[str, Tensor],
        like: Tensor,
        counts: Mapping[str, float],
    ) -> None:
        super().__init__()
        self.conjugate = {name: latents[name] for name in conjugate}
        learnt = {name: latent for name, latent in latents.items() if name not in conjugate}
        self.learnt = LatentLaws(learnt, start, like, counts)

    def followed(self, updates: Mapping[str, Update]) -> dict[str, GammaLaw]:
        """The laws that follow from the spectra, by name, in float64."""
        found = {}
        for name, latent in self.conjugate.items():
            assert isinstance(latent.law, Gamma)
            a, b = latent.law.numbers()
            rate = b + updates[name].rate
            found[name] = GammaLaw(rate.new_tensor(a + updates[name].concentration), rate)
        return found

    def rsample(self, followed: Mapping[str, GammaLaw]) -> dict[str, Tensor]:
        """One draw of each, 0-d, with gradient, from Torch's global generator."""
        return {name: law.rsample() for name, law in followed.items()} | self.learnt.rsample()

    def draw(
        self, followed: Mapping[str, GammaLaw], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """One draw of each, 0-d, without gradient; the generator is on the CPU."""
        drawn = {name: gamma_draw(law, generator) for name, law in followed.items()}
        return drawn | self.learnt.draw(generator)

    def centre(self, followed: Mapping[str, GammaLaw]) -> dict[str, Tensor]:
        """Means of Gamma laws, medians of others."""
        return {name: law.mean for name, law in followed.items()} | self.learnt.centre()

    def given(self, values: Mapping[str, Tensor], followed: Mapping[str, GammaLaw]) -> Given:
        """Hyperparameters to score spectra at: these values, but Gamma laws in the mean."""
        learnt = self.learnt.laws_by_name()
        gammas = {n: law for n, law in learnt.items() if isinstance(law, GammaLaw)}
        moments = {
            name: (law.mean.double(), (law.concentration.digamma() - law.rate.log()).double())
            for name, law in (gammas | dict(followed)).items()
        }
        return Given({name: values[name].double() for name in learnt}, moments)

    @torch.no_grad()
    def held(self, followed: Mapping[str, GammaLaw]) -> Given:
        """What gradients are held at: an average over draws, always of the same noise."""
        generator = torch.Generator().manual_seed(0)
        draws = [self.learnt.draw(generator) for _ in range(_HELD_DRAWS)]
        values = {name: torch.stack([d[name] for d in draws])[:, None, None] for name in draws[0]}
        return self.given(values, followed)

    def divergence(self, followed: Mapping[str, GammaLaw]) -> Tensor:
        """`KL(guide | hyperpriors)`: 0-d, float64."""
        total = self.learnt.divergence()
        for name, law in followed.items():
            kl = kl_divergence(law, hyperprior(self.conjugate[name], law.rate))
            total = total.to(kl.device) + kl
        return total


def conjugate_names(placed: Sequence[PlacedParameter]) -> tuple[str, ...]:
    """Hyperparameters with a Gamma law that are only ever the tail index of laws of spectra.

    Beside another hyperparameter in the same law they are not: the update would depend on it.
    """
    uses: dict[str, list[bool]] = {}
    for p in placed:
        for m in p.matrices:
            for term in (*m.prior.spectral, *m.prior.entries):
                for argument, latent in term.latents.items():
                    alone = argument == "tail_index" and len(term.latents) == 1
                    is_spectral = term in m.prior.spectral
                    fits = alone and is_spectral and isinstance(latent.law, Gamma)
                    uses.setdefault(latent.name, []).append(fits)
    return tuple(name for name, fits in uses.items() if all(fits))

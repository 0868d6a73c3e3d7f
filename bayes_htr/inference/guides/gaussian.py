"""What guides with normal laws over the weights share: all but the shape of the covariance.

`KL = -entropy - E[log prior]`. The entropy is closed, and so is the expectation for
`Entries(Normal)` at any strength `s`, given the hyperparameters:

    E[-s log N(W_ij; m, t)]
        = s (((location_ij - m)^2 + variance_ij) / (2 t^2) + log t + log(2 pi) / 2)

Any other factor of a prior is scored at the one sample. A flat parameter is a point: its
posterior would be improper, and it adds nothing to the divergence.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import biject_to

from bayes_htr.inference.guides.base import VariationalGuide, start_scale
from bayes_htr.inference.guides.latent_laws import LatentLaws
from bayes_htr.inference.guides.spectrum_law import Given
from bayes_htr.models import BayesianClassifier
from bayes_htr.models.matrix_prior import DensityTerm, MatrixPrior, hyperprior
from bayes_htr.models.placed import PlacedParameter, informing_values, latents_of_all
from bayes_htr.priors import Normal

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
G = TypeVar("G", bound="GaussianGuide")


class GaussianGuide(VariationalGuide):
    """Normal laws over the weights, independent laws of the hyperparameters.

    Args:
        placed: The trainable parameters with their densities; their values are the locations.
        hyperparameters: Where hyperparameters start, by name, unconstrained.
        init_scale: The standard deviation of every weight at the start; see `start_scale`.
    """

    def __init__(
        self,
        placed: Sequence[PlacedParameter],
        hyperparameters: Mapping[str, Tensor] | None = None,
        *,
        init_scale: float | None = None,
        constants: Sequence[PlacedParameter] = (),
    ) -> None:
        super().__init__(placed, constants)
        self.init_scale = init_scale
        self.start_scales = {p.name: start_scale(init_scale, [p]) for p in placed}
        self.locations = nn.ParameterList(
            nn.Parameter(p.parameter.tensor.detach().clone()) for p in placed
        )
        self.random = tuple(p.name for p in placed if p.matrices)
        like = placed[0].parameter.tensor.detach()
        informing = [*placed, *constants]
        self.hyper = LatentLaws(
            latents_of_all(informing), hyperparameters or {}, like, informing_values(informing)
        )

    @property
    def drawn(self) -> tuple[str, ...]:
        """As in the base: those with a prior."""
        return self.random

    @classmethod
    def around(
        cls: type[G],
        model: BayesianClassifier,
        placed: Sequence[PlacedParameter],
        hyperparameters: Mapping[str, Tensor],
        options: Mapping[str, Any],
        constants: Sequence[PlacedParameter] = (),
    ) -> G:
        """As in the base; the option is `init_scale`."""
        return cls(placed, hyperparameters, init_scale=options["init_scale"], constants=constants)

    def location(self, name: str) -> nn.Parameter:
        """The location of a parameter."""
        return self.locations[self.names.index(name)]

    def rsample(self, *, again: bool = False) -> dict[str, Tensor]:
        """One draw with gradient; flat parameters are their locations."""
        points = dict(zip(self.names, self.locations, strict=True))
        return points | self._noisy(None) | self.hyper.rsample()

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """One draw, without gradient; the generator is on the CPU."""
        with torch.no_grad():
            points = {
                n: p.detach().clone() for n, p in zip(self.names, self.locations, strict=True)
            }
            return points | self._noisy(generator) | self.hyper.draw(generator)

    def centre(self) -> dict[str, Tensor]:
        """The locations, and the means or medians of hyperparameters."""
        points = zip(self.names, self.locations, strict=True)
        return {n: p.detach().clone() for n, p in points} | self.hyper.centre()

    def divergence(self, sample: Mapping[str, Tensor]) -> Tensor:
        """`KL(guide | prior)` in nats, 0-d, in float64; closed where it can be (see the module)."""
        total = self.hyper.divergence().to(self.locations[0].device)
        total = total + self.constants.energy(Given(sample)).to(total)
        if not self.random:
            return total
        total = total - self._entropy()
        variances = self._variances()
        for p in self.placed:
            if not p.matrices:
                continue
            locations = _by_matrix(p, self.location(p.name))
            spreads = _by_matrix(p, variances[p.name])
            for m in p.matrices:
                name = m.prior.name
                closed, rest = _parted(m.prior)
                for term in closed:
                    total = total + _expected_energy(term, locations[name], spreads[name], sample)
                if rest.spectral or rest.entries:
                    drawn = p.split(sample[p.name])[name]
                    total = total - rest.log_density(drawn, sample).double()
        return total

    def settings(self) -> dict[str, Any]:
        """The parameters' names, the scale at the start, and the epoch."""
        return {"names": list(self.names), "init_scale": self.init_scale, "epoch": self.epoch}

    @abstractmethod
    def _noisy(self, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Draws of the parameters in `random`; from Torch's global generator if none is given."""

    @abstractmethod
    def _entropy(self) -> Tensor:
        """The entropy of the weights, 0-d, in float64."""

    @abstractmethod
    def _variances(self) -> dict[str, Tensor]:
        """The variance of each entry of the parameters in `random`."""


def unconstrained(guide: VariationalGuide, placed: Sequence[PlacedParameter]) -> dict[str, Tensor]:
    """The hyperparameters in the guide's middle in unconstrained coordinates, by name."""
    centre = guide.centre()
    return {
        name: biject_to(hyperprior(latent, centre[name]).support).inv(centre[name])
        for name, latent in latents_of_all(list(placed)).items()
    }


def noise_like(like: Tensor, generator: torch.Generator | None, *shape: int) -> Tensor:
    """Standard normal noise; a generator is on the CPU, whatever the device."""
    size = shape or like.shape
    if generator is None:
        return torch.randn(size, dtype=like.dtype, device=like.device)
    return torch.randn(size, dtype=like.dtype, generator=generator).to(like.device)


def _parted(prior: MatrixPrior) -> tuple[tuple[DensityTerm, ...], MatrixPrior]:
    """The factors whose expectation is closed, and the rest."""
    closed = tuple(t for t in prior.entries if isinstance(t.statistic.law, Normal))
    rest = tuple(t for t in prior.entries if not isinstance(t.statistic.law, Normal))
    return closed, replace(prior, entries=rest)


def _by_matrix(placed: PlacedParameter, tensor: Tensor) -> dict[str, Tensor]:
    """A tensor's entries by matrix, in any order within one."""
    if len(placed.matrices) == 1:
        return {placed.matrices[0].prior.name: tensor}
    return placed.split(tensor)


def _expected_energy(
    term: DensityTerm, location: Tensor, variance: Tensor, values: Mapping[str, Tensor]
) -> Tensor:
    """`E[-s log p(W)]` for a normal law of the entries, hyperparameters given."""
    law = term.law(values, location)
    squares = (location - law.loc).square().sum(dtype=torch.float64)
    squares = squares + variance.sum(dtype=torch.float64)
    constant = location.numel() * (law.scale.double().log() + HALF_LOG_2PI)
    return term.strength * (squares / (2 * law.scale.double().square()) + constant)

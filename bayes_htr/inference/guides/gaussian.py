"""Guides with normal laws over the weights: mean field, and low rank plus diagonal.

The two guides differ only in the covariance (`GaussianGuide`). The KL divergence is
`KL = -entropy - E[log prior]`. The entropy has a closed form, and so has the expectation for
`Entries(Normal)` at any strength `s`, given the hyperparameters:

    E[-s log N(W_ij; m, t)]
        = s (((location_ij - m)^2 + variance_ij) / (2 t^2) + log t + log(2 pi) / 2)

Any other term of a prior is evaluated at the single sample. A parameter with a flat prior is a
point estimate, because its posterior would be improper, and adds nothing to the KL divergence.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bayes_htr.inference.guides.base import VariationalGuide, start_scale
from bayes_htr.inference.guides.hyperparameters import (
    HyperparameterMoments,
    HyperparameterPosterior,
)
from bayes_htr.priors import Densities, MatrixPrior, Normal, ParameterPrior, ResolvedTerm
from bayes_htr.priors.parameter_prior import hyperparameters_by_name, informing_values

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class GaussianGuide(VariationalGuide):
    """Normal laws over the weights, independent laws of the hyperparameters.

    The arguments are those of the base class. The values of the parameters are the locations, and
    `init_scale` is the standard deviation of every weight (`start_scale` says the default).
    """

    def __init__(
        self,
        densities: Densities,
        hyperparameters: Mapping[str, Tensor] | None = None,
        *,
        init_scale: float | None = None,
    ) -> None:
        super().__init__(densities, hyperparameters, init_scale=init_scale)
        trainable = densities.trainable
        self.start_scales = {p.name: start_scale(init_scale, [p]) for p in trainable}
        self.locations = nn.ParameterList(
            nn.Parameter(p.parameter.tensor.detach().clone()) for p in trainable
        )
        self.random = tuple(p.name for p in trainable if p.matrices)
        like = trainable[0].parameter.tensor.detach()
        scored = [*trainable, *densities.frozen]
        self.hyper = HyperparameterPosterior(
            hyperparameters_by_name(scored), self.start, like, informing_values(scored)
        )

    @property
    def drawn(self) -> tuple[str, ...]:
        """Names of the parameters whose entries are all drawn, which are those with a prior."""
        return self.random

    def location(self, name: str) -> nn.Parameter:
        """Return the location of a parameter."""
        return self.locations[self.names.index(name)]

    def hyperparameter_coordinates(self) -> list[nn.Parameter]:
        """Return the parameters of the posteriors of hyperparameters."""
        return list(self.hyper.parameters())

    def rsample(self, *, again: bool = False) -> dict[str, Tensor]:
        """Draw once with gradient; parameters with a flat prior are at their locations."""
        points = dict(zip(self.names, self.locations, strict=True))
        return points | self._noisy(None) | self.hyper.rsample()

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw once without gradient; the generator is on the CPU."""
        with torch.no_grad():
            points = {
                n: p.detach().clone() for n, p in zip(self.names, self.locations, strict=True)
            }
            return points | self._noisy(generator) | self.hyper.draw(generator)

    def centre(self) -> dict[str, Tensor]:
        """Return the locations of parameters, and the means or medians of hyperparameters."""
        points = zip(self.names, self.locations, strict=True)
        return {n: p.detach().clone() for n, p in points} | self.hyper.centre()

    def kl(self, sample: Mapping[str, Tensor]) -> Tensor:
        """Return `KL(guide | prior)` in nats, 0-d, in float64.

        It is computed in closed form as far as there is one.
        """
        total = self.hyper.kl().to(self.locations[0].device)
        total = total + self.evidence.energy(HyperparameterMoments(sample)).to(total)
        if not self.random:
            return total
        total = total - self._entropy()
        variances = self._variances()
        for p in self.priors:
            if not p.matrices:
                continue
            locations = _by_matrix(p, self.location(p.name))
            spreads = _by_matrix(p, variances[p.name])
            for m in p.matrices:
                name = m.name
                closed, rest = _split_closed(m)
                for term in closed:
                    total = total + _expected_energy(term, locations[name], spreads[name], sample)
                if rest.terms:
                    W = p.split(sample[p.name])[name]
                    total = total - rest.log_density(W, sample).double()
        return total

    @abstractmethod
    def _noisy(self, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Draw the parameters in `random`, with PyTorch's global generator if none is given."""

    @abstractmethod
    def _entropy(self) -> Tensor:
        """Return the entropy of the weights, 0-d, in float64."""

    @abstractmethod
    def _variances(self) -> dict[str, Tensor]:
        """Return the variance of each entry of the parameters in `random`."""


class MeanField(GaussianGuide):
    """Mean field: every weight has an independent normal law.

        W_ij ~ N(location_ij, exp(log_scale_ij)^2)

    The arguments are those of `GaussianGuide`. Source: Graves (2011), "Practical variational
    inference for neural networks"; Blundell et al. (2015), arXiv:1505.05424.
    """

    kind: ClassVar[str] = "meanfield"

    def __init__(
        self,
        densities: Densities,
        hyperparameters: Mapping[str, Tensor] | None = None,
        *,
        init_scale: float | None = None,
    ) -> None:
        super().__init__(densities, hyperparameters, init_scale=init_scale)
        self.log_scales = nn.ParameterList(
            nn.Parameter(torch.full_like(self.location(name), math.log(self.start_scales[name])))
            for name in self.random
        )

    def _noisy(self, generator: torch.Generator | None) -> dict[str, Tensor]:
        draws = {}
        for name, log_scale in zip(self.random, self.log_scales, strict=True):
            location = self.location(name)
            draws[name] = torch.addcmul(location, log_scale.exp(), noise_like(location, generator))
        return draws

    def _entropy(self) -> Tensor:
        total = torch.stack([s.sum(dtype=torch.float64) for s in self.log_scales]).sum()
        return total + sum(s.numel() for s in self.log_scales) * (HALF_LOG_2PI + 0.5)

    def _variances(self) -> dict[str, Tensor]:
        return {n: (2 * s).exp() for n, s in zip(self.random, self.log_scales, strict=True)}


class LowRank(GaussianGuide):
    """Low rank plus diagonal: the weights of a layer have one normal law with a few directions.

        w ~ N(location, F F' + diag(d)^2),   F: n x r, kept as F'

    over all entries `w` of a layer's parameters but flat ones, independent between layers. The
    entropy is `1/2 log det(2 pi e (F F' + D))`, by the matrix determinant lemma
    `log det(F F' + D) = log det D + log det(I_r + F' D^-1 F)`: `O(n r^2)`.

    Source: Ong, Nott & Smith (2018), "Gaussian variational approximation with a factor covariance
    structure"; Swiatkowski et al. (2020), arXiv:2002.02655.

    Args:
        densities: The densities, as in the base class.
        hyperparameters: The initial coordinates of hyperparameters, as in the base class.
        init_scale: As in `MeanField`, but the directions start at random and have half of the
            variance.
        rank: The number `r` of directions; a layer with fewer weights has as many as weights.
    """

    kind: ClassVar[str] = "lowrank"
    options: ClassVar[frozenset[str]] = frozenset({"init_scale", "rank"})

    def __init__(
        self,
        densities: Densities,
        hyperparameters: Mapping[str, Tensor] | None = None,
        *,
        init_scale: float | None = None,
        rank: int = 4,
    ) -> None:
        super().__init__(densities, hyperparameters, init_scale=init_scale)
        self.rank = rank
        self.layers: dict[str, list[str]] = {}
        for name in self.random:
            self.layers.setdefault(name.rpartition(".")[0], []).append(name)
        self.factors = nn.ParameterList()
        self.log_scales = nn.ParameterList()
        generator = torch.Generator().manual_seed(0)
        for names in self.layers.values():
            like = self.location(names[0]).detach()
            n = sum(self.location(name).numel() for name in names)
            r = min(self.rank, n)
            scales = torch.cat(
                [like.new_full((self.location(m).numel(),), self.start_scales[m]) for m in names]
            )
            noise = noise_like(like, generator, r, n)
            self.factors.append(nn.Parameter(noise * scales * math.sqrt(0.5 / r)))
            self.log_scales.append(nn.Parameter((scales * math.sqrt(0.5)).log()))

    def settings(self) -> dict[str, Any]:
        """Return the settings of the base class, and the rank."""
        return super().settings() | {"rank": self.rank}

    def _noisy(self, generator: torch.Generator | None) -> dict[str, Tensor]:
        draws = {}
        for names, F, log_scale in zip(
            self.layers.values(), self.factors, self.log_scales, strict=True
        ):
            step = noise_like(F, generator, F.shape[0]) @ F
            step = torch.addcmul(step, log_scale.exp(), noise_like(log_scale, generator))
            for name, part in self._parts(names, step).items():
                draws[name] = self.location(name) + part
        return draws

    def _entropy(self) -> Tensor:
        total = self.factors[0].new_zeros((), dtype=torch.float64)
        for F, log_scale in zip(self.factors, self.log_scales, strict=True):
            whitened = F * (-log_scale).exp()
            inner = (whitened @ whitened.mT).double()
            inner = inner + torch.eye(F.shape[0], dtype=inner.dtype, device=inner.device)
            half_log_det = torch.linalg.cholesky(inner).diagonal().log().sum()
            total = total + log_scale.sum(dtype=torch.float64) + half_log_det
        return total + sum(s.numel() for s in self.log_scales) * (HALF_LOG_2PI + 0.5)

    def _variances(self) -> dict[str, Tensor]:
        variances: dict[str, Tensor] = {}
        for names, F, log_scale in zip(
            self.layers.values(), self.factors, self.log_scales, strict=True
        ):
            variances |= self._parts(names, F.square().sum(0) + (2 * log_scale).exp())
        return variances

    def _parts(self, names: list[str], flat: Tensor) -> dict[str, Tensor]:
        """Return a vector over a layer's weights by parameter."""
        shapes = [self.location(name).shape for name in names]
        parts = flat.split([shape.numel() for shape in shapes])
        return {n: part.reshape(s) for n, part, s in zip(names, parts, shapes, strict=True)}


def noise_like(like: Tensor, generator: torch.Generator | None, *shape: int) -> Tensor:
    """Draw standard normal noise; a generator is on the CPU, whatever the device."""
    size = shape or like.shape
    if generator is None:
        return torch.randn(size, dtype=like.dtype, device=like.device)
    return torch.randn(size, dtype=like.dtype, generator=generator).to(like.device)


def _split_closed(prior: MatrixPrior) -> tuple[list[ResolvedTerm], MatrixPrior]:
    """Return the terms whose expectation is closed, and the prior with the others."""
    closed = [t for t in prior.entries if isinstance(t.statistic.law, Normal)]
    rest = tuple(t for t in prior.terms if t not in closed)
    return closed, replace(prior, terms=rest)


def _by_matrix(prior: ParameterPrior, tensor: Tensor) -> dict[str, Tensor]:
    """Return the entries of a tensor by matrix; their order within a matrix is not defined."""
    if len(prior.matrices) == 1:
        return {prior.matrices[0].name: tensor}
    return prior.split(tensor)


def _expected_energy(
    term: ResolvedTerm, location: Tensor, variance: Tensor, values: Mapping[str, Tensor]
) -> Tensor:
    """Return `E[-s log p(W)]` for a normal law of the entries, given the hyperparameters."""
    law = term.law(values, location)
    squares = (location - law.loc).square().sum(dtype=torch.float64)
    squares = squares + variance.sum(dtype=torch.float64)
    constant = location.numel() * (law.scale.double().log() + HALF_LOG_2PI)
    return term.strength * (squares / (2 * law.scale.double().square()) + constant)

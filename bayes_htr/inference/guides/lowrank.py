"""Low rank plus diagonal: the weights of a layer have one normal law with a few shared directions.

    w ~ N(location, F F' + diag(d)^2),   F: n x r, kept as F'

over all entries `w` of a layer's parameters (but flat ones), independent between layers. The
entropy is `1/2 log det(2 pi e (F F' + D))`, by the matrix determinant lemma
`log det(F F' + D) = log det D + log det(I_r + F' D^-1 F)`: `O(n r^2)`.

Source: Ong, Nott & Smith (2018), "Gaussian variational approximation with a factor covariance
structure"; Swiatkowski et al. (2020), arXiv:2002.02655.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bayes_htr.inference.guides.gaussian import HALF_LOG_2PI, GaussianGuide, noise_like
from bayes_htr.models import BayesianClassifier
from bayes_htr.models.placed import PlacedParameter


class LowRank(GaussianGuide):
    """Low-rank plus diagonal normal laws by layer; see `GaussianGuide`.

    Args:
        placed: The trainable parameters with their densities; their values are the locations.
        hyperparameters: Where hyperparameters start, by name, unconstrained.
        init_scale: The standard deviation of every weight at the start (see `start_scale`), up to
            the chance of the directions, which are drawn and have half of the variance.
        rank: `r`; of a layer with fewer weights, their number.
    """

    kind: ClassVar[str] = "lowrank"
    options: ClassVar[frozenset[str]] = frozenset({"init_scale", "rank"})

    def __init__(
        self,
        placed: Sequence[PlacedParameter],
        hyperparameters: Mapping[str, Tensor] | None = None,
        *,
        init_scale: float | None = None,
        rank: int = 4,
        constants: Sequence[PlacedParameter] = (),
    ) -> None:
        super().__init__(placed, hyperparameters, init_scale=init_scale, constants=constants)
        self.rank = int(rank)
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

    @classmethod
    def around(
        cls,
        model: BayesianClassifier,
        placed: Sequence[PlacedParameter],
        hyperparameters: Mapping[str, Tensor],
        options: Mapping[str, Any],
        constants: Sequence[PlacedParameter] = (),
    ) -> LowRank:
        """As in the base; the options are `init_scale` and `rank`."""
        return cls(
            placed,
            hyperparameters,
            init_scale=options["init_scale"],
            rank=options["rank"],
            constants=constants,
        )

    def settings(self) -> dict[str, Any]:
        """As those of the base, and the rank."""
        return super().settings() | {"rank": self.rank}

    def _noisy(self, generator: torch.Generator | None) -> dict[str, Tensor]:
        found = {}
        for names, F, log_scale in zip(
            self.layers.values(), self.factors, self.log_scales, strict=True
        ):
            step = noise_like(F, generator, F.shape[0]) @ F
            step = torch.addcmul(step, log_scale.exp(), noise_like(log_scale, generator))
            for name, part in self._parts(names, step).items():
                found[name] = self.location(name) + part
        return found

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
        found: dict[str, Tensor] = {}
        for names, F, log_scale in zip(
            self.layers.values(), self.factors, self.log_scales, strict=True
        ):
            found |= self._parts(names, F.square().sum(0) + (2 * log_scale).exp())
        return found

    def _parts(self, names: list[str], flat: Tensor) -> dict[str, Tensor]:
        """A vector over a layer's weights by parameter."""
        shapes = [self.location(name).shape for name in names]
        parts = flat.split([shape.numel() for shape in shapes])
        return {n: part.reshape(s) for n, part, s in zip(names, parts, shapes, strict=True)}

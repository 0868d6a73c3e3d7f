"""Mean field: every weight has an independent normal law.

    W_ij ~ N(location_ij, exp(log_scale_ij)^2)

Source: Graves (2011), "Practical variational inference for neural networks"; Blundell et al.
(2015), arXiv:1505.05424.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from bayes_htr.inference.guides.gaussian import HALF_LOG_2PI, GaussianGuide, noise_like
from bayes_htr.models.placed import PlacedParameter


class MeanField(GaussianGuide):
    """Independent normal laws over the weights; see `GaussianGuide`."""

    kind: ClassVar[str] = "meanfield"

    def __init__(
        self,
        placed: Sequence[PlacedParameter],
        hyperparameters: Mapping[str, Tensor] | None = None,
        *,
        init_scale: float | None = None,
        constants: Sequence[PlacedParameter] = (),
    ) -> None:
        super().__init__(placed, hyperparameters, init_scale=init_scale, constants=constants)
        self.log_scales = nn.ParameterList(
            nn.Parameter(torch.full_like(self.location(name), math.log(self.start_scales[name])))
            for name in self.random
        )

    def _noisy(self, generator: torch.Generator | None) -> dict[str, Tensor]:
        found = {}
        for name, log_scale in zip(self.random, self.log_scales, strict=True):
            location = self.location(name)
            found[name] = torch.addcmul(location, log_scale.exp(), noise_like(location, generator))
        return found

    def _entropy(self) -> Tensor:
        total = torch.stack([s.sum(dtype=torch.float64) for s in self.log_scales]).sum()
        return total + sum(s.numel() for s in self.log_scales) * (HALF_LOG_2PI + 0.5)

    def _variances(self) -> dict[str, Tensor]:
        return {n: (2 * s).exp() for n, s in zip(self.random, self.log_scales, strict=True)}

"""The improper power law `x^-alpha` on all positive x: an energy, not a distribution.

Use it to reproduce published penalties under MAP. Its integral is infinite for every `alpha`, so it
cannot be sampled. `Powerlaw` and `Lomax` are the proper laws with the same tail.
"""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor
from torch.distributions import constraints

from bayes_htr.distributions._base import Law


class ImproperPowerlaw(Law):
    r"""Unnormalised density `x^-alpha` for `x > 0`.

    Source: the Powerlaw prior of Xiao, Li, Xie & Zhou (2023), arXiv:2304.02911. `sample`,
    `rsample`, `cdf` and `icdf` raise; `mean` and `variance` are nan.

    Args:
        alpha: exponent, positive.
        validate_args: as in PyTorch.

    Raises:
        ValueError: Validation is on, and a parameter or a value is outside its range.
    """

    arg_constraints: ClassVar = {"alpha": constraints.positive}
    support = constraints.positive
    has_rsample = False
    alpha: Tensor

    def __init__(self, alpha: Tensor | float, validate_args: bool | None = None) -> None:
        super().__init__(validate_args, alpha=alpha)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return `-alpha log x`; minus infinity at and below 0."""
        if self._validate_args:
            self._validate_sample(value)
        outside = value <= 0
        return torch.where(
            outside, -torch.inf, -self.alpha * torch.where(outside, 1.0, value).log()
        )

    def sample(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise NotImplementedError, because the density has no finite integral."""
        raise NotImplementedError(
            "ImproperPowerlaw has no normaliser, so it has neither draws nor a cdf; use the proper "
            "Powerlaw(alpha, xmin) or Lomax(alpha, scale), which have the same tail."
        )

    rsample = cdf = icdf = sample

    @property
    def mean(self) -> Tensor:
        """NaN: undefined."""
        return torch.full_like(self.alpha, torch.nan)

    @property
    def variance(self) -> Tensor:
        """NaN: undefined."""
        return torch.full_like(self.alpha, torch.nan)

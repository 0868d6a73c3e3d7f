"""The Fréchet law: the limit of maxima of heavy-tailed variables.

Use it for the largest eigenvalue of a heavy-tailed matrix. Its tail is a power law with tail index
`alpha`, and it vanishes faster than any power at the lower end.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from bayes_htr.distributions._base import (
    Law,
    Shape,
    finite_exponent,
    scaled_exp,
    standard_exponential,
)


class Frechet(Law):
    r"""Density `alpha / scale * z^(-1 - alpha) * exp(-z^-alpha)`, `z = (x - loc) / scale > 0`.

    `X = loc + scale * E^(-1 / alpha)` with a standard exponential `E`. In scipy:
    `invweibull(alpha, loc, scale)`.

    Args:
        alpha: shape, positive: the exponent of the tail probability, smaller by one than the
            exponent of the density.
        scale: positive.
        loc: lower end of the support.
        validate_args: as in PyTorch.

    Raises:
        ValueError: Validation is on, and a parameter or a value is outside its range.
    """

    arg_constraints: ClassVar = {
        "alpha": constraints.positive,
        "scale": constraints.positive,
        "loc": constraints.real,
    }
    alpha: Tensor
    scale: Tensor
    loc: Tensor

    def __init__(
        self,
        alpha: Tensor | float,
        scale: Tensor | float = 1.0,
        loc: Tensor | float = 0.0,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(validate_args, alpha=alpha, scale=scale, loc=loc)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The support `x > loc`."""
        return constraints.greater_than(self.loc)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density.

        It is minus infinity at and below `loc`, and where `z^-alpha` overflows.
        """
        if self._validate_args:
            self._validate_sample(value)
        log_z = self._log_z(value)
        log_power = -self.alpha * log_z
        limit = math.log(torch.finfo(log_power.dtype).max) - 1
        density = (
            torch.log(self.alpha)
            - torch.log(self.scale)
            - (1 + self.alpha) * log_z
            - torch.exp(log_power.clamp(max=limit))
        )
        return torch.where((value <= self.loc) | (log_power > limit), -torch.inf, density)

    def cdf(self, value: Tensor) -> Tensor:
        """Return `P(X <= value) = exp(-z^-alpha)`, defined on the whole line."""
        # Past 80 the cdf is 0; without the clamp its gradient would be 0 times infinity.
        log_power = (-self.alpha * self._log_z(value)).clamp(max=80.0)
        return torch.where(value <= self.loc, 0.0, torch.exp(-torch.exp(log_power)))

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantile at probability `value`; `loc` at 0 and infinite at 1."""
        at_zero = value <= 0
        t = -torch.log(-torch.log(torch.where(at_zero, 0.5, value))) / self.alpha
        return torch.where(at_zero, self.loc, self.loc + scaled_exp(self.scale, t))

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw `loc + scale * E^(-1 / alpha)`, with gradients to all parameters."""
        e = standard_exponential(self._extended_shape(torch.Size(sample_shape)), self.alpha)
        x = self.loc + scaled_exp(
            self.scale, finite_exponent(-torch.log(e) / self.alpha, self.scale)
        )
        # The sum may round to loc, which is outside the support: step to the next number.
        lowest = torch.nextafter(self.loc, torch.full_like(self.loc, torch.inf))
        return x + (torch.maximum(x, lowest) - x).detach()

    @property
    def mean(self) -> Tensor:
        """`loc + scale * Gamma(1 - 1/alpha)`; infinite for `alpha <= 1`."""
        finite = self.alpha > 1
        alpha = torch.where(finite, self.alpha, 2.0)
        gamma = torch.exp(torch.lgamma(1 - 1 / alpha))
        return torch.where(finite, self.loc + self.scale * gamma, torch.inf)

    @property
    def variance(self) -> Tensor:
        """`scale^2 (Gamma(1 - 2/alpha) - Gamma(1 - 1/alpha)^2)`; infinite for `alpha <= 2`."""
        finite = self.alpha > 2
        alpha = torch.where(finite, self.alpha, 3.0)
        first, second = torch.lgamma(1 - 1 / alpha), torch.lgamma(1 - 2 / alpha)
        value = (self.scale * torch.exp(first)) ** 2 * torch.expm1(second - 2 * first)
        return torch.where(finite, value, torch.inf)

    def _log_z(self, value: Tensor) -> Tensor:
        """Return `log((x - loc) / scale)`; finite at and below `loc`, where callers mask it."""
        excess = value - self.loc
        return torch.log(torch.where(excess <= 0, 1.0, excess)) - torch.log(self.scale)

"""The Lomax law: a power law with a soft lower end.

It is the recommended law for a whole spectrum. Its tail is a power law like that of `Powerlaw`, but
its density is bounded at 0, so small eigenvalues are neither excluded nor favoured without limit.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from bayes_htr.distributions._base import (
    Law,
    Shape,
    finite_exponent,
    log1p_ratio,
    standard_exponential,
    tail_variance,
)


class Lomax(Law):
    r"""Density `(alpha - 1) / scale * (1 + x / scale)^-alpha` for `x >= 0`.

    `alpha` is the exponent of the density. In scipy: `lomax(alpha - 1, scale=scale)`.

    Args:
        alpha: exponent of the density, greater than 1.
        scale: where the power law begins, positive.
        validate_args: as in PyTorch.

    Raises:
        ValueError: Validation is on, and a parameter or a value is outside its range.
    """

    arg_constraints: ClassVar = {
        "alpha": constraints.greater_than(1.0),
        "scale": constraints.positive,
    }
    support = constraints.nonnegative
    alpha: Tensor
    scale: Tensor

    def __init__(
        self, alpha: Tensor | float, scale: Tensor | float, validate_args: bool | None = None
    ) -> None:
        super().__init__(validate_args, alpha=alpha, scale=scale)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density, which is minus infinity below 0."""
        if self._validate_args:
            self._validate_sample(value)
        log_ratio = log1p_ratio(value.clamp(min=0), self.scale)
        density = torch.log(self.alpha - 1) - torch.log(self.scale) - self.alpha * log_ratio
        return torch.where(value < 0, -torch.inf, density)

    def cdf(self, value: Tensor) -> Tensor:
        """Return `P(X <= value)`, defined on the whole line."""
        return -torch.expm1((1 - self.alpha) * log1p_ratio(value.clamp(min=0), self.scale))

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantile at probability `value`; infinite at 1."""
        return self._from_log_ratio(-torch.log1p(-value) / (self.alpha - 1))

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw by the inverse cdf, with gradients to all parameters."""
        e = standard_exponential(self._extended_shape(torch.Size(sample_shape)), self.alpha)
        return self._from_log_ratio(finite_exponent(e / (self.alpha - 1), self.scale))

    @property
    def mean(self) -> Tensor:
        """The mean, infinite for `alpha <= 2`."""
        finite = self.alpha > 2
        excess = torch.where(finite, self.alpha - 2, 1.0)
        return torch.where(finite, self.scale / excess, torch.inf)

    @property
    def variance(self) -> Tensor:
        """The variance, infinite for `alpha <= 3`, as in scipy."""
        return tail_variance(self.alpha, self.scale)

    def _from_log_ratio(self, t: Tensor) -> Tensor:
        """Return `x = scale * expm1(t)`, for which `log(1 + x / scale)` is `t`.

        The formula overflows only where `x` itself does.
        """
        return 2 * self.scale * torch.exp(t / 2) * torch.sinh(t / 2)

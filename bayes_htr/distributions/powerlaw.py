"""The power law: heavy-tailed eigenvalues above a known lower end.

Use it for a spectrum, or the tail of one, that starts at `xmin`. Use `Lomax` if the lower end is
soft or unknown, and `TruncatedPowerlaw` if there is also an upper end.
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
    scaled_exp,
    standard_exponential,
    tail_variance,
)


class Powerlaw(Law):
    r"""Density `(alpha - 1) / xmin * (x / xmin)^-alpha` for `x >= xmin`.

    `alpha` is the exponent of the density, as in Clauset, Shalizi & Newman (2009); the tail
    probability `P(X > x)` has exponent `alpha - 1`. In scipy: `pareto(b=alpha - 1, scale=xmin)`.

    Args:
        alpha: exponent of the density, greater than 1.
        xmin: lower end of the support, positive.
        validate_args: as in PyTorch.

    Raises:
        ValueError: Validation is on, and a parameter or a value is outside its range.
    """

    arg_constraints: ClassVar = {
        "alpha": constraints.greater_than(1.0),
        "xmin": constraints.positive,
    }
    alpha: Tensor
    xmin: Tensor

    def __init__(
        self, alpha: Tensor | float, xmin: Tensor | float, validate_args: bool | None = None
    ) -> None:
        super().__init__(validate_args, alpha=alpha, xmin=xmin)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The support `x >= xmin`."""
        return constraints.greater_than_eq(self.xmin)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density, which is minus infinity below `xmin`."""
        if self._validate_args:
            self._validate_sample(value)
        log_ratio = self._log_ratio(value)
        density = torch.log(self.alpha - 1) - torch.log(self.xmin) - self.alpha * log_ratio
        return torch.where(value < self.xmin, -torch.inf, density)

    def cdf(self, value: Tensor) -> Tensor:
        """Return `P(X <= value)`, defined on the whole line."""
        return -torch.expm1((1 - self.alpha) * self._log_ratio(value))

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantile at probability `value`; infinite at 1."""
        return scaled_exp(self.xmin, -torch.log1p(-value) / (self.alpha - 1))

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw by the inverse cdf, with gradients to all parameters."""
        e = standard_exponential(self._extended_shape(torch.Size(sample_shape)), self.alpha)
        return scaled_exp(self.xmin, finite_exponent(e / (self.alpha - 1), self.xmin))

    @property
    def mean(self) -> Tensor:
        """The mean, infinite for `alpha <= 2`."""
        finite = self.alpha > 2
        excess = torch.where(finite, self.alpha - 2, 1.0)
        return torch.where(finite, self.xmin * (self.alpha - 1) / excess, torch.inf)

    @property
    def variance(self) -> Tensor:
        """The variance, infinite for `alpha <= 3`, as in scipy."""
        return tail_variance(self.alpha, self.xmin)

    def _log_ratio(self, value: Tensor) -> Tensor:
        """Return `log(x / xmin)`, 0 below `xmin`."""
        return log1p_ratio((value - self.xmin).clamp(min=0), self.xmin)

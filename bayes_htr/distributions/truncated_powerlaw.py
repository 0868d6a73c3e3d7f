"""The power law between two ends: proper for every exponent.

Use it if the range of a spectrum is known, or as a vague prior over scales. It is log-uniform at
`alpha = 1`, uniform at `alpha = 0`, and increasing for negative `alpha`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from bayes_htr.distributions._base import Law, Shape, log1p_ratio, scaled_exp


class TruncatedPowerlaw(Law):
    r"""Density proportional to `x^-alpha` on `[xmin, xmax]`, for any real `alpha`.

    With `t = log(x / xmin)`, `L = log(xmax / xmin)`, `b = 1 - alpha` and `phi(y) = (e^y - 1) / y`,
    the normaliser is `xmin^b L phi(b L)`, the cdf `(t / L) phi(b t) / phi(b L)` and the quantile
    `t = log(1 + q (e^(b L) - 1)) / b`; all are smooth at `alpha = 1`, in value and in gradient.
    In scipy: `truncpareto(alpha - 1, xmax / xmin, scale=xmin)`, `loguniform(xmin, xmax)` at 1.

    Args:
        alpha: exponent of the density, any real number.
        xmin: lower end of the support, positive.
        xmax: upper end of the support, greater than `xmin`.
        validate_args: as in PyTorch.

    Raises:
        ValueError: Validation is on, and a parameter or a value is outside its range.
    """

    arg_constraints: ClassVar = {
        "alpha": constraints.real,
        "xmin": constraints.positive,
        "xmax": constraints.positive,
    }
    alpha: Tensor
    xmin: Tensor
    xmax: Tensor

    def __init__(
        self,
        alpha: Tensor | float,
        xmin: Tensor | float,
        xmax: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(validate_args, alpha=alpha, xmin=xmin, xmax=xmax)
        if self._validate_args and not torch.all(self.xmin < self.xmax):
            raise ValueError(f"xmax must exceed xmin, but xmin={self.xmin} and xmax={self.xmax}")

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The support `xmin <= x <= xmax`."""
        return constraints.interval(self.xmin, self.xmax)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density, which is minus infinity outside `[xmin, xmax]`."""
        if self._validate_args:
            self._validate_sample(value)
        span = self._span()
        normaliser = torch.log(self.xmin * span) + _log_phi((1 - self.alpha) * span)
        density = -self.alpha * self._log_ratio(value) - normaliser
        return torch.where((value < self.xmin) | (value > self.xmax), -torch.inf, density)

    def cdf(self, value: Tensor) -> Tensor:
        """Return `P(X <= value)`, defined on the whole line."""
        b, t, span = 1 - self.alpha, self._log_ratio(value), self._span()
        return t / span * torch.exp(_log_phi(b * t) - _log_phi(b * span))

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantile at probability `value`."""
        span = self._span()
        x = scaled_exp(self.xmin, span * _quantile((1 - self.alpha) * span, value))
        return torch.clamp(x, self.xmin, self.xmax)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw by the inverse cdf, with gradients to all parameters."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.icdf(torch.rand(shape, dtype=self.alpha.dtype, device=self.alpha.device))

    @property
    def mean(self) -> Tensor:
        """`xmin phi((b + 1) L) / phi(b L)`."""
        return self.xmin * torch.exp(self._log_moment(1))

    @property
    def variance(self) -> Tensor:
        """The second moment minus the squared mean, computed without cancellation."""
        return self.mean**2 * torch.expm1(self._log_moment(2) - 2 * self._log_moment(1))

    def _span(self) -> Tensor:
        """Return `L = log(xmax / xmin)`."""
        return log1p_ratio(self.xmax - self.xmin, self.xmin)

    def _log_ratio(self, value: Tensor) -> Tensor:
        """Return `t = log(x / xmin)`, after the value is moved into the support."""
        inside = torch.clamp(value, self.xmin, self.xmax)
        return log1p_ratio(inside - self.xmin, self.xmin)

    def _log_moment(self, n: int) -> Tensor:
        """Return `log E[(X / xmin)^n]`."""
        span = self._span()
        b = 1 - self.alpha
        return _log_phi((b + n) * span) - _log_phi(b * span)


def _log_phi(y: Tensor) -> Tensor:
    """Return `log((e^y - 1) / y)`: `y/2 + log(sinh(y/2) / (y/2))`, by its series for small y."""
    x = y / 2
    small = x.abs() < 0.25
    s = torch.where(small, x, 0.0) ** 2
    series = s * (1 / 6 - s * (1 / 180 - s * (1 / 2835 - s * (1 / 37800 - s / 467775))))
    a = torch.where(small, 1.0, x).abs()
    direct = a + torch.log(-torch.expm1(-2 * a) / (2 * a))
    return x + torch.where(small, series, direct)


def _quantile(y: Tensor, q: Tensor) -> Tensor:
    """Return `log(1 + q (e^y - 1)) / y`, which is q at y = 0; 0 and 1 are fixed points.

    For small y it is the series in the cumulants of a Bernoulli variable. Elsewhere each of four
    regions has a form of the formula that neither overflows nor cancels, so that the result keeps
    its relative accuracy down to the smallest q, and its distance to 1 up to the largest.
    """
    y, q = torch.broadcast_tensors(y, q)
    end = (q <= 0) | (q >= 1)
    p = torch.where(end, 0.5, q)

    small = y.abs() < 1e-2
    s = torch.where(small, y, 0.0)
    v, w = p * (1 - p), 1 - 2 * p
    third, fourth, fifth, sixth = w, 1 - 6 * v, w * (1 - 12 * v), 1 - 30 * v + 120 * v**2
    series = s * (1 / 2 + s * (third / 6 + s * (fourth / 24 + s * (fifth / 120 + s * sixth / 720))))
    series = p + v * series

    a = torch.where(small, 1.0, y).abs()
    lower = -torch.log1p(p * torch.expm1(-a))
    upper = -torch.log(torch.exp(-a) - (1 - p) * torch.expm1(-a))
    negative = torch.where((p < 0.5) | (a < 1), lower, upper)
    large = a > 30
    moderate = torch.log1p(p * torch.expm1(torch.where(large, 1.0, a)))
    exponent = a + torch.log(p) + torch.log1p(-torch.exp(-a))
    positive = torch.where(large, torch.logaddexp(exponent, torch.zeros_like(a)), moderate)
    direct = torch.where(y < 0, negative, positive) / a
    return torch.where(end, q, torch.where(small, series, direct))

"""The density, cumulative distribution function and quantiles of the Marchenko-Pastur law.

They are separate from the Pyro distribution `MarchenkoPastur`, so that spectra can be compared with
the law without importing Pyro.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Bulk:
    """The formulas of the Marchenko-Pastur law; see `MarchenkoPastur` for their statement.

    Attributes:
        ratio: `K / M`.
        mean: `size` times the variance of the entries.
    """

    ratio: Tensor
    mean: Tensor

    @property
    def lower(self) -> Tensor:
        """The lower edge."""
        return self.mean * (1 - self.ratio.sqrt()) ** 2

    @property
    def upper(self) -> Tensor:
        """The upper edge."""
        return self.mean * (1 + self.ratio.sqrt()) ** 2

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density.

        It is minus infinity at the edges and outside them, and plus infinity at an edge at 0.
        """
        lower, upper = self.lower, self.upper
        outside = (value <= lower) | (value >= upper)
        x = torch.where(outside, self.mean, value)
        density = (
            (torch.log(upper - x) + torch.log(x - lower)) / 2
            - torch.log(2 * math.pi * self.ratio * self.mean)
            - torch.log(x)
        )
        edge = torch.where((value == 0) & (lower == 0), torch.inf, -torch.inf)
        return torch.where(outside, edge, density)

    def cdf(self, value: Tensor) -> Tensor:
        """Return `P(X <= value)`, defined on the whole line."""
        lower, upper = self.lower, self.upper
        outside = (value <= lower) | (value >= upper)
        x = torch.where(outside, self.mean, value)
        theta = 2 * torch.atan2((x - lower).double().sqrt(), (upper - x).double().sqrt())
        inside = _angle_cdf(theta, self.ratio.double().sqrt()).to(x.dtype)
        return torch.where(outside, (value >= upper).to(x.dtype), inside)

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantile at probability `value`."""
        c = self.ratio.double().sqrt()
        theta = _angle_quantile(value.double(), c)
        # 1 + c^2 - 2 c cos(theta), without cancellation near a lower edge at 0.
        scaled = (1 - c) ** 2 + 4 * c * torch.sin(theta / 2) ** 2
        x = (self.mean * scaled).to(torch.promote_types(value.dtype, self.ratio.dtype))
        return torch.clamp(x, self.lower, self.upper)


def _angle_density(theta: Tensor, c: Tensor) -> Tensor:
    """Return `2 sin(theta)^2 / (pi (1 + c^2 - 2 c cos(theta)))`."""
    scaled = (1 - c) ** 2 + 4 * c * torch.sin(theta / 2) ** 2
    return 2 * torch.sin(theta) ** 2 / (math.pi * scaled)


def _angle_cdf(theta: Tensor, c: Tensor) -> Tensor:
    """Return the integral of `_angle_density` from 0 to theta.

    `(theta + (c sin(theta) - (1 - c^2) psi) / c^2) / pi`, `psi = arg(1 / (1 - c e^(i theta)))`:
    write `sin^2` through the denominator D, which leaves the integrals of D, of 1 and of 1/D. The
    absolute error is about `eps / c`.
    """
    psi = torch.atan2(c * torch.sin(theta), 1 - c * torch.cos(theta))
    return (theta + (c * torch.sin(theta) - (1 - c**2) * psi) / c**2) / math.pi


def _angle_quantile(q: Tensor, c: Tensor) -> Tensor:
    """Return the theta with `_angle_cdf(theta, c) = q`, with implicit gradients to q and c."""
    q, c = torch.broadcast_tensors(q, c)
    end = (q <= 0) | (q >= 1)
    p = torch.where(end, 0.5, q)
    theta = _solve(p.detach(), c.detach())
    residual = p - _angle_cdf(theta, c)
    theta = theta + (residual - residual.detach()) / _angle_density(theta, c.detach())
    return torch.where(end, math.pi * q.detach().clamp(0, 1), theta)


def _solve(q: Tensor, c: Tensor) -> Tensor:
    """Solve `_angle_cdf(theta, c) = q` for 0 < q < 1.

    Newton's method is kept in a bracket by bisection.
    """
    low, high = torch.zeros_like(q), torch.full_like(q, math.pi)
    theta = high / 2
    for _ in range(100):
        residual = _angle_cdf(theta, c) - q
        low = torch.where(residual < 0, theta, low)
        high = torch.where(residual < 0, high, theta)
        newton = theta - residual / _angle_density(theta, c)
        inside = (newton > low) & (newton < high)
        step = torch.where(inside, newton, (low + high) / 2) - theta
        theta = theta + step
        if bool((step.abs() <= 4e-16 * theta).all()):
            break
    return theta

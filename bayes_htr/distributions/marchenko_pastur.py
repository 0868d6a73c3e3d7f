"""The Marchenko-Pastur law: the eigenvalues that a random matrix has.

Use it as the null hypothesis for a spectrum, or as a prior for matrices near their initialisation.
It describes the bulk only: a trained matrix may have outliers above its upper edge.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from bayes_htr.distributions._base import Law, Shape


class MarchenkoPastur(Law):
    r"""The limit law of the eigenvalues of `W W'`, `W` a `K x M` matrix of iid entries, `K <= M`.

    Density `sqrt((b - x)(x - a)) / (2 pi ratio variance size x)` on `[a, b]`, with
    `a, b = size * variance * (1 -+ sqrt(ratio))^2`. There is no factor 1/M in `W W'`.

    With `c = sqrt(ratio)`, `x / (size variance) = 1 + c^2 - 2 c cos(theta)` maps the support to
    `[0, pi]`, where the density is `2 sin(theta)^2 / (pi (1 + c^2 - 2 c cos(theta)))`. Its integral
    is in closed form (`_angle_cdf`), the quantile is a root of it, and draws carry gradients by
    implicit reparameterisation of `theta` (Figurnov, Mohamed & Mnih 2018, arXiv:1805.08498). This
    is computed in float64 whatever the dtype of the parameters.

    Source: Marchenko & Pastur (1967).

    Args:
        ratio: `K / M`, in `(0, 1]`. At 1 the lower edge is 0 and the density infinite there.
        variance: of the entries of `W`, positive. The attribute is `entry_variance`, since
            `variance` is that of the distribution.
        size: `M`, positive.
        validate_args: as in Torch.

    Raises:
        ValueError: with validation on, for parameters or values outside their range.
    """

    arg_constraints: ClassVar = {
        "ratio": constraints.interval(torch.finfo(torch.float32).tiny, 1.0),  # (0, 1]
        "entry_variance": constraints.positive,
        "size": constraints.positive,
    }
    ratio: Tensor
    entry_variance: Tensor
    size: Tensor

    def __init__(
        self,
        ratio: Tensor | float,
        variance: Tensor | float = 1.0,
        size: Tensor | float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(validate_args, ratio=ratio, entry_variance=variance, size=size)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """Between the two edges."""
        return constraints.interval(self.lower, self.upper)

    @property
    def lower(self) -> Tensor:
        """The lower edge of the bulk, `size * variance * (1 - sqrt(ratio))^2`."""
        return self.mean * (1 - self.ratio.sqrt()) ** 2

    @property
    def upper(self) -> Tensor:
        """The upper edge of the bulk, `size * variance * (1 + sqrt(ratio))^2`."""
        return self.mean * (1 + self.ratio.sqrt()) ** 2

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density; minus infinity at the edges and outside, plus infinity at an edge at 0."""
        if self._validate_args:
            self._validate_sample(value)
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
        """`P(X <= value)`, defined on the whole line."""
        lower, upper = self.lower, self.upper
        outside = (value <= lower) | (value >= upper)
        x = torch.where(outside, self.mean, value)
        theta = 2 * torch.atan2((x - lower).double().sqrt(), (upper - x).double().sqrt())
        inside = _angle_cdf(theta, self.ratio.double().sqrt()).to(x.dtype)
        return torch.where(outside, (value >= upper).to(x.dtype), inside)

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile at probability `value`."""
        c = self.ratio.double().sqrt()
        theta = _angle_quantile(value.double(), c)
        # 1 + c^2 - 2 c cos(theta), without cancellation near a lower edge at 0.
        scaled = (1 - c) ** 2 + 4 * c * torch.sin(theta / 2) ** 2
        x = (self.mean * scaled).to(torch.promote_types(value.dtype, self.ratio.dtype))
        return torch.clamp(x, self.lower, self.upper)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draws by the inverse cdf, with gradients to all parameters."""
        shape = self._extended_shape(torch.Size(sample_shape))
        u = torch.rand(shape, dtype=torch.float64, device=self.ratio.device)
        eps = torch.finfo(torch.float64).eps
        return self.icdf(u.clamp(eps, 1 - eps)).to(self.ratio.dtype)

    @property
    def mean(self) -> Tensor:
        """`size * variance` of the entries."""
        return self.size * self.entry_variance

    @property
    def variance(self) -> Tensor:
        """`size^2 * variance^2 * ratio`, with the variance of the entries."""
        return self.mean**2 * self.ratio


def _angle_density(theta: Tensor, c: Tensor) -> Tensor:
    """`2 sin(theta)^2 / (pi (1 + c^2 - 2 c cos(theta)))`."""
    scaled = (1 - c) ** 2 + 4 * c * torch.sin(theta / 2) ** 2
    return 2 * torch.sin(theta) ** 2 / (math.pi * scaled)


def _angle_cdf(theta: Tensor, c: Tensor) -> Tensor:
    """The integral of `_angle_density` from 0 to theta.

    `(theta + (c sin(theta) - (1 - c^2) psi) / c^2) / pi`, `psi = arg(1 / (1 - c e^(i theta)))`:
    write `sin^2` through the denominator D, which leaves the integrals of D, of 1 and of 1/D. The
    absolute error is about `eps / c`.
    """
    psi = torch.atan2(c * torch.sin(theta), 1 - c * torch.cos(theta))
    return (theta + (c * torch.sin(theta) - (1 - c**2) * psi) / c**2) / math.pi


def _angle_quantile(q: Tensor, c: Tensor) -> Tensor:
    """The theta with `_angle_cdf(theta, c) = q`, with implicit gradients to q and c."""
    q, c = torch.broadcast_tensors(q, c)
    end = (q <= 0) | (q >= 1)
    p = torch.where(end, 0.5, q)
    theta = _solve(p.detach(), c.detach())
    residual = p - _angle_cdf(theta, c)
    theta = theta + (residual - residual.detach()) / _angle_density(theta, c.detach())
    return torch.where(end, math.pi * q.detach().clamp(0, 1), theta)


def _solve(q: Tensor, c: Tensor) -> Tensor:
    """Newton's method for `_angle_cdf(theta, c) = q`, 0 < q < 1, kept in a bracket by bisection."""
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

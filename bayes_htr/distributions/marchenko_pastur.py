"""The Marchenko-Pastur law: the distribution of the eigenvalues of a random matrix.

Use it as the null hypothesis for a spectrum, or as a prior for matrices near their initialisation.
It describes only the bulk: a trained matrix may have outliers above its upper edge.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from bayes_htr.distributions._base import Law, Shape
from bayes_htr.distributions.bulk import Bulk


class MarchenkoPastur(Law):
    r"""The limit law of the eigenvalues of `W W'` for a random `K x M` matrix `W`.

    The entries of `W` are iid, and `K <= M`. The density is
    `sqrt((b - x)(x - a)) / (2 pi ratio variance size x)` on `[a, b]`, with
    `a, b = size * variance * (1 -+ sqrt(ratio))^2`. There is no factor 1/M in `W W'`.

    With `c = sqrt(ratio)`, `x / (size variance) = 1 + c^2 - 2 c cos(theta)` maps the support to
    `[0, pi]`, where the density is `2 sin(theta)^2 / (pi (1 + c^2 - 2 c cos(theta)))`. Its integral
    has a closed form (`bulk`), and the quantile is computed as a root. Draws carry gradients by
    implicit reparameterisation of `theta` (Figurnov, Mohamed & Mnih 2018, arXiv:1805.08498). All of
    this is computed in float64, whatever the dtype of the parameters.

    Source: Marchenko & Pastur (1967).

    Args:
        ratio: `K / M`, in `(0, 1]`. At 1 the lower edge is 0, and the density is infinite there.
        variance: variance of the entries of `W`, positive. The attribute is called
            `entry_variance`, because `variance` is the variance of the distribution.
        size: `M`, positive.
        validate_args: as in PyTorch.

    Raises:
        ValueError: Validation is on, and a parameter or a value is outside its range.
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
        """The support between the two edges."""
        return constraints.interval(self.lower, self.upper)

    @property
    def lower(self) -> Tensor:
        """The lower edge of the bulk, `size * variance * (1 - sqrt(ratio))^2`."""
        return self._bulk.lower

    @property
    def upper(self) -> Tensor:
        """The upper edge of the bulk, `size * variance * (1 + sqrt(ratio))^2`."""
        return self._bulk.upper

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density.

        It is minus infinity at the edges and outside them, and plus infinity at an edge at 0.
        """
        if self._validate_args:
            self._validate_sample(value)
        return self._bulk.log_prob(value)

    def cdf(self, value: Tensor) -> Tensor:
        """Return `P(X <= value)`, defined on the whole line."""
        return self._bulk.cdf(value)

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantile at probability `value`."""
        return self._bulk.icdf(value)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw by the inverse cdf, with gradients to all parameters."""
        shape = self._extended_shape(torch.Size(sample_shape))
        u = torch.rand(shape, dtype=torch.float64, device=self.ratio.device)
        eps = torch.finfo(torch.float64).eps
        return self.icdf(u.clamp(eps, 1 - eps)).to(self.ratio.dtype)

    @property
    def mean(self) -> Tensor:
        """`size` times the variance of the entries."""
        return self.size * self.entry_variance

    @property
    def variance(self) -> Tensor:
        """`size^2 * entry_variance^2 * ratio`."""
        return self.mean**2 * self.ratio

    @property
    def _bulk(self) -> Bulk:
        return Bulk(self.ratio, self.mean)

"""The base class of the distributions in this package, and formulas that several of them use.

A distribution lists its parameters in `arg_constraints` under their attribute names. `Law` stores
and expands exactly these. The functions keep float32 and float64 finite at both ends of a heavy
tail.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions.utils import broadcast_all

# What Torch accepts as a sample shape.
Shape = torch.Size | list[int] | tuple[int, ...]


class Law(TorchDistribution):
    """A univariate distribution whose parameters are the names in `arg_constraints`.

    Args:
        validate_args: check the parameters now and the values in `log_prob`; None means PyTorch's
            default.
        **parameters: numbers or tensors by attribute name; they are broadcast against each other.

    Raises:
        ValueError: Validation is on, and a parameter is outside its constraint.
    """

    has_rsample = True

    def __init__(self, validate_args: bool | None, **parameters: Tensor | float) -> None:
        tensors = broadcast_all(*parameters.values())
        for name, tensor in zip(parameters, tensors, strict=True):
            setattr(self, name, tensor)
        super().__init__(tensors[0].shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """Return the same law with its parameters broadcast to `batch_shape`."""
        new = self._get_checked_instance(type(self), _instance)
        batch_shape = torch.Size(batch_shape)
        for name in self.arg_constraints:
            setattr(new, name, getattr(self, name).expand(batch_shape))
        super(Law, new).__init__(batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new


def log1p_ratio(t: Tensor, s: Tensor) -> Tensor:
    """Return `log(1 + t / s)` for `t >= 0`, `s > 0`, without overflow of `t / s`."""
    near = t < s
    small = torch.log1p(torch.where(near, t, 0.0) / s)
    return torch.where(near, small, torch.log(t + s) - torch.log(s))


def scaled_exp(scale: Tensor, t: Tensor) -> Tensor:
    """Return `scale * exp(t)` without overflow of `exp(t)` where the product is finite."""
    half = torch.exp(t / 2)
    return scale * half * half


def standard_exponential(shape: torch.Size, like: Tensor) -> Tensor:
    """Draw `-log U`, which is never 0.

    The draws are accurate at both ends, even where `U` is close to 1.
    """
    draws = torch.empty(shape, dtype=like.dtype, device=like.device).exponential_()
    return draws.clamp_(min=torch.finfo(like.dtype).tiny)


def finite_exponent(t: Tensor, scale: Tensor) -> Tensor:
    """Return `t`, reduced where `scale * exp(t)` overflows, so that every draw is finite."""
    limit = math.log(torch.finfo(t.dtype).max) - 1 - torch.log(scale.detach())
    return torch.minimum(t, limit)


def tail_variance(alpha: Tensor, scale: Tensor) -> Tensor:
    """Return the variance of `scale * U^(-1 / (alpha - 1))` for a uniform `U`.

    It is infinite for `alpha <= 3`.
    """
    finite = alpha > 3
    tail = torch.where(finite, alpha - 1, 3.0)
    return torch.where(finite, scale**2 * tail / ((tail - 1) ** 2 * (tail - 2)), torch.inf)

"""How an energy whose gradient is already known enters the caller's graph, or its `.grad`.

The spectral engine computes value and gradient together, outside of the caller's graph, and holds
them over several calls: nothing here asks when they were computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bayes_htr.spectra import Gradient


class KnownGradient(torch.autograd.Function):
    """`value` as a function of `inputs` with the given gradients; differentiable once."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Gradient], *inputs: Tensor) -> Tensor:
        """`gradients` belong to `inputs` in this order."""
        ctx.gradients = gradients
        ctx.inputs = inputs
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients times the incoming one: new tensors, that autograd may add to in place."""
        needed = zip(ctx.gradients, ctx.inputs, ctx.needs_input_grad[2:], strict=True)
        with torch.autocast(grad_output.device.type, enabled=False):
            scaled = [_scaled(g, grad_output, x) if wanted else None for g, x, wanted in needed]
        if torch.is_grad_enabled():  # create_graph=True
            scaled = [
                None if g is None else _Once.apply(g, x)
                for g, x in zip(scaled, ctx.inputs, strict=True)
            ]
        return (None, None, *scaled)


class _Once(torch.autograd.Function):
    """A gradient with respect to `x` that cannot be differentiated.

    `once_differentiable` raises only if the incoming gradient has a graph. In a sum with another
    loss it has none, and the curvature of the energy would be left out in silence.
    """

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor) -> Tensor:
        """The gradient."""
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> None:
        """Raises."""
        raise RuntimeError(
            "the gradient of a spectral energy is a constant of the moment and cannot be "
            "differentiated again; leave the energy out of what takes second derivatives"
        )


def enter(value: Tensor, gradients: Sequence[Gradient], inputs: Sequence[Tensor]) -> Tensor:
    """`value` with the given gradients with respect to `inputs`.

    Differentiating the gradient raises: it is a constant of the moment.
    """
    result: Tensor = KnownGradient.apply(value, tuple(gradients), *inputs)
    return result


def add_to_grad(grad: Tensor, gradient: Gradient, scale: float) -> None:
    """`grad += scale * gradient`, in place."""
    rest, top = gradient
    if rest is not None:
        grad.add_(rest.to(grad.dtype), alpha=scale)
    if top is not None:
        left, right = top
        if left.dtype != grad.dtype:
            left, right = left.to(grad.dtype), right.to(grad.dtype)
        if left.ndim == 1:
            grad.addr_(left, right, alpha=scale)  # half the time of `addmm_`
        else:
            grad.addmm_(left, right, alpha=scale)


def _scaled(gradient: Gradient, scale: Tensor, x: Tensor) -> Tensor:
    """`scale * gradient` in the dtype of `x`: one pass over memory for each part."""
    rest, top = gradient
    if top is None:
        assert rest is not None
        return (scale.to(rest.device) * rest).to(x.dtype)
    scale = scale.to(top.left.device)
    left = scale * top.left
    product = torch.outer if left.ndim == 1 else torch.mm
    if rest is None:
        return product(left, top.right).to(x.dtype)
    add_product = torch.addr if left.ndim == 1 else torch.addmm
    return add_product(scale * rest, left, top.right).to(x.dtype)

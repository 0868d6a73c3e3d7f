"""An energy whose gradient is already known.

The spectral engine computes value and gradient together, outside of the caller's graph; this
function is how they enter it. It is also where a gradient that is held over several steps
enters, since nothing here asks when it was computed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class HeldGradient(torch.autograd.Function):
    """`value` as a function of `inputs` with the given gradients; differentiable once."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, count: int, *tensors: Tensor) -> Tensor:
        """`tensors` are `count` gradients and then the `count` inputs they belong to."""
        ctx.save_for_backward(*tensors[:count])
        ctx.inputs = tensors[count:]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """The held gradients times the incoming one."""
        gradients = ctx.saved_tensors
        scaled = [grad_output.to(g.device) * g for g in gradients]
        if torch.is_grad_enabled():  # create_graph=True
            scaled = [_Once.apply(g, x) for g, x in zip(scaled, ctx.inputs, strict=True)]
        return (None, None, *([None] * len(gradients)), *scaled)


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


def held(value: Tensor, gradients: list[Tensor], inputs: list[Tensor]) -> Tensor:
    """`value` with the given gradients with respect to `inputs`.

    Differentiating the gradient raises: it is a constant of the moment.
    """
    cast = [g.to(x.dtype) for g, x in zip(gradients, inputs, strict=True)]
    result: Tensor = HeldGradient.apply(value, len(inputs), *cast, *inputs)
    return result

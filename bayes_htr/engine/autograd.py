"""How an energy whose gradient is already known enters the caller's graph, or `.grad`.

Value and gradient are computed together, outside of the caller's graph, and cached over several
calls: nothing here depends on when they were computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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


def _scaled(gradient: Gradient, scale: Tensor, x: Tensor) -> Tensor:
    """`scale * gradient` in the dtype of `x`: one pass over memory for each part."""
    rest, left, right = gradient
    if left is None or right is None:
        assert rest is not None
        return (scale.to(rest.device) * rest).to(x.dtype)
    scale = scale.to(left.device)
    left = scale * left
    if rest is None:
        product = torch.outer if left.ndim == 1 else torch.mm
        return product(left, right).to(x.dtype)
    add_product = torch.addr if left.ndim == 1 else torch.addmm
    return add_product(scale * rest, left, right).to(x.dtype)


class Derivative(NamedTuple):
    """A gradient with respect to a view of a tensor.

    Attributes:
        tensor: A parameter, or a hyperparameter.
        view: Takes it to what the gradient belongs to: a matrix, or itself.
        gradient: The gradient.
    """

    tensor: Tensor
    view: Callable[[Tensor], Tensor]
    gradient: Gradient


class Summand(NamedTuple):
    """A summand of an energy.

    Attributes:
        name: That of its parameter or hyperparameter.
        value: 0-d, without gradient.
        penalty: Its value at strength 1, as a number; 0 for a hyperprior.
        derivatives: Its derivatives.
    """

    name: str
    value: Tensor
    penalty: float
    derivatives: list[Derivative]


def entered(value: Tensor, summands: Sequence[Summand]) -> Tensor:
    """A value with the derivatives of summands in the caller's graph."""
    used = [d for s in summands for d in s.derivatives if d.tensor.requires_grad]
    if not used or not torch.is_grad_enabled():
        return value
    return enter(value, [d.gradient for d in used], [d.view(d.tensor) for d in used])


def by_name(summands: Sequence[Summand]) -> dict[str, Tensor]:
    """The summands, each in the caller's graph, added up where they have the same name."""
    terms: dict[str, Tensor] = {}
    for s in summands:
        value = entered(s.value, [s])
        terms[s.name] = terms[s.name] + value if s.name in terms else value
    return terms


def accumulate(derivative: Derivative, scale: float) -> None:
    """Add `scale` times a gradient to the `.grad` of its tensor, in place where it is a view."""
    tensor, view, gradient = derivative
    if not tensor.requires_grad:
        return
    if not tensor.is_leaf:  # a weight that the network computes: on to its parameters
        _backward(derivative, scale, retain_graph=True)
        return
    if tensor.grad is None:
        tensor.grad = torch.zeros_like(tensor)
    grad = tensor.grad
    if grad.layout == torch.strided:
        part = view(grad)
        if part.untyped_storage().data_ptr() == grad.untyped_storage().data_ptr():
            rest, left, right = gradient
            if rest is not None:
                part.add_(rest.to(part.dtype), alpha=scale)
            if left is not None and right is not None:
                left, right = left.to(part.dtype), right.to(part.dtype)
                add_product = part.addr_ if left.ndim == 1 else part.addmm_  # `addr_` is faster
                add_product(left, right, alpha=scale)
            return
    _backward(derivative, scale)  # the matrix is no view of the gradient


def _backward(derivative: Derivative, scale: float, *, retain_graph: bool = False) -> None:
    tensor, view, gradient = derivative
    with torch.enable_grad():
        zero = torch.zeros((), dtype=tensor.dtype, device=tensor.device)
        (scale * enter(zero, [gradient], [view(tensor)])).backward(retain_graph=retain_graph)


def itself(tensor: Tensor) -> Tensor:
    """The view of a tensor that is no parameter's matrix."""
    return tensor

"""How an energy with a known gradient enters the caller's graph, or is added to `.grad`.

Value and gradient are computed together, outside of the caller's graph, and may be cached over
several calls. Nothing in this file depends on when they were computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayes_htr.spectra import Gradient
from bayes_htr.spectra.shards import local_of


class KnownGradient(torch.autograd.Function):
    """`value` as a function of `inputs` with the given gradients; differentiable once."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Gradient], *inputs: Tensor) -> Tensor:
        """Return `value`; the i-th of `gradients` belongs to the i-th of `inputs`."""
        ctx.gradients = gradients
        ctx.inputs = inputs
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Multiply the gradients by the incoming one; autograd may change the results in place."""
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
    loss that gradient has no graph, and the curvature of the energy would silently be left out.
    """

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor) -> Tensor:
        """Return the gradient."""
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> None:
        """Raise an error, because the gradient has no derivative."""
        raise RuntimeError(
            "the gradient of a spectral energy is a constant and cannot be differentiated again; "
            "leave the energy out of computations with second derivatives"
        )


def _scaled(gradient: Gradient, scale: Tensor, x: Tensor) -> Tensor:
    """Compute `scale * gradient` in the dtype of `x`, with one pass over memory for each part."""
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
        tensor: A parameter or a hyperparameter.
        view: The function that returns the matrix in the tensor, or the tensor itself.
        gradient: The gradient with respect to the result of `view`.
    """

    tensor: Tensor
    view: Callable[[Tensor], Tensor]
    gradient: Gradient


class Summand(NamedTuple):
    """A summand of an energy.

    Attributes:
        name: The name of the parameter or hyperparameter.
        value: The value, 0-d, without gradient.
        penalty: The value at strength 1, as a number; 0 for a hyperprior.
        derivatives: The derivatives with respect to parameters and hyperparameters.
    """

    name: str
    value: Tensor
    penalty: float
    derivatives: list[Derivative]


def enter(value: Tensor, derivatives: Iterable[Derivative]) -> Tensor:
    """Put `value` with the given derivatives into the caller's graph.

    The gradient itself is a constant, and differentiating it raises an error.
    """
    used = [d for d in derivatives if d.tensor.requires_grad]
    if not used or not torch.is_grad_enabled():
        return value
    inputs = [d.view(d.tensor) for d in used]
    result: Tensor = KnownGradient.apply(value, tuple(d.gradient for d in used), *inputs)
    return result


def by_name(summands: Sequence[Summand]) -> dict[str, Tensor]:
    """Return the summands, each in the caller's graph, added up where they have the same name."""
    terms: dict[str, Tensor] = {}
    for s in summands:
        value = enter(s.value, s.derivatives)
        terms[s.name] = terms[s.name] + value if s.name in terms else value
    return terms


def add_to_gradients(derivatives: Iterable[Derivative], scale: float) -> None:
    """Add `scale` times gradients to the `.grad` of their tensors.

    The gradients are added in place, in one pass over memory. Autograd adds them instead if a
    tensor has hooks, which have to see the gradient, if its `.grad` is sparse, if the matrix is no
    view of `.grad`, or if the network computes the tensor from its parameters.
    """
    others = []
    for derivative in derivatives:
        tensor, view, gradient = derivative
        if not tensor.requires_grad:
            continue
        grad = tensor.grad if tensor.is_leaf else None
        is_dense_leaf = tensor.is_leaf and not isinstance(view, SparseView)
        if is_dense_leaf and grad is not None and grad.layout == torch.sparse_coo:
            derivative = derivative._replace(view=SparseView(view))
        elif is_dense_leaf and not has_hooks(tensor):
            if grad is None:
                tensor.grad = grad = torch.zeros_like(tensor)
            if grad.layout == torch.strided and _add_in_place(grad, view, gradient, scale):
                continue
        others.append(derivative)
    if others:
        with torch.enable_grad():
            zero = torch.zeros((), dtype=others[0].tensor.dtype, device=others[0].tensor.device)
            (scale * enter(zero, others)).backward()


def add_to_tensor(target: Tensor, derivative: Derivative, scale: float) -> None:
    """Add `scale` times a gradient to a tensor of the parameter's shape, in place.

    Args:
        target: Dense, such as the parameter itself. Gradients have to be disabled.
        derivative: The gradient.
        scale: The factor.
    """
    tensor, view, gradient = derivative
    inner = view.view if isinstance(view, SparseView) else view
    if _add_in_place(target, inner, gradient, scale):
        return
    with torch.enable_grad():  # no view of the target is the matrix
        leaf = torch.zeros_like(tensor).requires_grad_()
        value = KnownGradient.apply(leaf.new_zeros(()), (gradient,), inner(leaf))
        (whole,) = torch.autograd.grad(value, leaf)
    target.add_(whole.to(target.dtype), alpha=scale)


def _add_in_place(
    target: Tensor, view: Callable[[Tensor], Tensor], gradient: Gradient, scale: float
) -> bool:
    """Add a gradient in place if the matrix is a view of the tensor, and return whether it is."""
    part = view(target)
    own = target if type(target) is Tensor else local_of(target)
    if part.untyped_storage().data_ptr() != own.untyped_storage().data_ptr():
        return False
    rest, left, right = gradient
    if rest is not None:
        part.add_(rest.to(part.dtype), alpha=scale)
    if left is not None and right is not None:
        left, right = left.to(part.dtype), right.to(part.dtype)
        add_product = part.addr_ if left.ndim == 1 else part.addmm_  # `addr_` is faster
        add_product(left, right, alpha=scale)
    return True


def has_hooks(tensor: Tensor) -> bool:
    """Return whether hooks are registered on a leaf, which autograd calls with its gradient."""
    return bool(tensor._backward_hooks or tensor._post_accumulate_grad_hooks)


@dataclass(frozen=True)
class SparseView:
    """The view of a parameter with sparse gradients, which makes the energy's gradient sparse.

    Optimisers such as `SparseAdam` accept only sparse gradients, and in autograd the sum of a
    sparse and a dense gradient is dense.

    Attributes:
        view: The function that returns the matrix in the parameter.
    """

    view: Callable[[Tensor], Tensor]

    def __call__(self, tensor: Tensor) -> Tensor:
        """Return the matrix in a parameter."""
        leaf: Tensor = _SparseRows.apply(tensor)
        return self.view(leaf)


class _SparseRows(torch.autograd.Function):
    """A tensor whose gradient becomes sparse, with a dense row for each index."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the tensor."""
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        """Return the gradient as a sparse tensor of rows."""
        return grad_output.to_sparse(1)


def itself(tensor: Tensor) -> Tensor:
    """Return a tensor unchanged: the view of a hyperparameter."""
    return tensor

"""How an energy whose gradient is already known enters the caller's graph, or `.grad`.

Value and gradient are computed together, outside of the caller's graph, and cached over several
calls: nothing here depends on when they were computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
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
        """The gradients times the incoming one: new tensors, which autograd may add to in place."""
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


def enter(value: Tensor, derivatives: Iterable[Derivative]) -> Tensor:
    """`value` with the given derivatives, in the caller's graph.

    Differentiating the gradient raises: it is a constant of the moment.
    """
    used = [d for d in derivatives if d.tensor.requires_grad]
    if not used or not torch.is_grad_enabled():
        return value
    inputs = [d.view(d.tensor) for d in used]
    result: Tensor = KnownGradient.apply(value, tuple(d.gradient for d in used), *inputs)
    return result


def derivatives_of(summands: Iterable[Summand]) -> Iterator[Derivative]:
    """The derivatives of all summands, one after another."""
    return (derivative for summand in summands for derivative in summand.derivatives)


def by_name(summands: Sequence[Summand]) -> dict[str, Tensor]:
    """The summands, each in the caller's graph, added up where they have the same name."""
    terms: dict[str, Tensor] = {}
    for s in summands:
        value = enter(s.value, s.derivatives)
        terms[s.name] = terms[s.name] + value if s.name in terms else value
    return terms


def add_to_gradients(derivatives: Iterable[Derivative], scale: float) -> None:
    """Add `scale` times gradients to the `.grad` of their tensors.

    This is done in place, in one pass over memory, unless a tensor has hooks, which see what
    autograd adds, or its `.grad` is sparse or no view of it is the matrix, or the network computes
    the tensor from its parameters.
    """
    others = []
    for derivative in derivatives:
        tensor, view, _ = derivative
        if tensor.requires_grad and not _added(derivative, scale):
            grad = tensor.grad if tensor.is_leaf else None
            is_sparse = grad is not None and grad.layout == torch.sparse_coo
            if is_sparse and not isinstance(view, SparseView):
                derivative = derivative._replace(view=SparseView(view))
            others.append(derivative)
    if others:
        with torch.enable_grad():
            zero = torch.zeros((), dtype=others[0].tensor.dtype, device=others[0].tensor.device)
            (scale * enter(zero, others)).backward()


def _added(derivative: Derivative, scale: float) -> bool:
    """Add a gradient in place, and return whether that could be done."""
    tensor, view, gradient = derivative
    if not tensor.is_leaf or has_hooks(tensor) or isinstance(view, SparseView):
        return False
    grad = tensor.grad
    if grad is None:
        tensor.grad = grad = torch.zeros_like(tensor)
    if grad.layout != torch.strided:
        return False
    part = view(grad)
    if part.untyped_storage().data_ptr() != grad.untyped_storage().data_ptr():
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
    """Whether something is registered on a leaf that autograd calls with its gradient."""
    return bool(tensor._backward_hooks or tensor._post_accumulate_grad_hooks)


@dataclass(frozen=True)
class SparseView:
    """The view of a parameter whose gradients are sparse: that of the energy is sparse too.

    Optimisers such as `SparseAdam` take sparse gradients alone, and autograd makes the sum of a
    sparse and a dense gradient dense.

    Attributes:
        view: Takes the parameter to the matrix.
    """

    view: Callable[[Tensor], Tensor]

    def __call__(self, tensor: Tensor) -> Tensor:
        """The matrix in a parameter."""
        leaf: Tensor = _SparseRows.apply(tensor)
        return self.view(leaf)


class _SparseRows(torch.autograd.Function):
    """A tensor whose gradient is made sparse, as one with a dense row for each index."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """The tensor."""
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        """The gradient by rows."""
        return grad_output.to_sparse(1)


def itself(tensor: Tensor) -> Tensor:
    """The view of a tensor that is no parameter's matrix."""
    return tensor

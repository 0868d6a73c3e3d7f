"""The summands of an energy, and how they enter the caller's graph or the weights' `.grad`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bayes_htr.engine.known_gradient import add_to_grad, enter
from bayes_htr.engine.scored import Scored
from bayes_htr.spectra import Gradient


class Input(NamedTuple):
    """What an energy is differentiated by: a view of a tensor, and the gradient."""

    tensor: Tensor
    view: Callable[[Tensor], Tensor]
    gradient: Gradient


class Summand(NamedTuple):
    """A summand of the energy, by the name of its parameter or hyperparameter."""

    name: str
    value: Tensor
    inputs: list[Input]


def summand_of(
    scored: Scored,
    tensor: Tensor,
    latents: Mapping[str, Tensor],
    value: Tensor,
    gradient: Gradient,
    latent_gradients: Mapping[str, Tensor],
) -> Summand:
    """The summand of one matrix, whose parameter is `tensor`."""
    inputs = [
        Input(latents[name], itself, Gradient(slope, None))
        for name, slope in latent_gradients.items()
    ]
    if gradient.rest is not None or gradient.top is not None:
        inputs.append(Input(tensor, scored.view, gradient))
    return Summand(scored.parameter, value, inputs)


def entered(value: Tensor, summands: Sequence[Summand]) -> Tensor:
    """A value with the gradients of summands in the caller's graph."""
    used = [entry for s in summands for entry in s.inputs if entry.tensor.requires_grad]
    if not used or not torch.is_grad_enabled():
        return value
    return enter(value, [e.gradient for e in used], [e.view(e.tensor) for e in used])


def by_name(summands: Sequence[Summand]) -> dict[str, Tensor]:
    """The summands, each in the caller's graph, added up where they have the same name."""
    terms: dict[str, Tensor] = {}
    for s in summands:
        value = entered(s.value, [s])
        terms[s.name] = terms[s.name] + value if s.name in terms else value
    return terms


def accumulate(entry: Input, scale: float) -> None:
    """Add `scale` times a gradient to the `.grad` that it belongs to."""
    tensor, view, gradient = entry
    if not tensor.requires_grad:
        return
    if tensor.grad is None:
        tensor.grad = torch.zeros_like(tensor)
    grad = tensor.grad
    if grad.layout == torch.strided:
        part = view(grad)
        if part.untyped_storage().data_ptr() == grad.untyped_storage().data_ptr():
            add_to_grad(part, gradient, scale)
            return
    with torch.enable_grad():  # the matrix is no view of the gradient
        zero = torch.zeros((), dtype=grad.dtype, device=grad.device)
        (scale * enter(zero, [gradient], [view(tensor)])).backward()


def itself(tensor: Tensor) -> Tensor:
    """The view of a tensor that is no parameter's matrix."""
    return tensor

"""What a network is called with, and what it returns.

A network has one input, several, or several by name: `net(x)`, `net(*x)`, `net(**x)`. A batch of
them is a tensor `(N, ...)`, a tuple of these, or a dictionary of these. What the network returns
is its outputs, or an object that has them as `logits`, as models of Hugging Face return it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call

Inputs: TypeAlias = "Tensor | tuple[Tensor, ...] | dict[str, Tensor]"
"""The inputs of a batch of `N` examples, each tensor `(N, ...)`."""


def tensors_in(x: Inputs) -> list[Tensor]:
    """Return the tensors of inputs."""
    if isinstance(x, Tensor):
        return [x]
    return list(x.values()) if isinstance(x, dict) else list(x)


def map_inputs(function: Callable[[Tensor], Tensor], x: Inputs) -> Inputs:
    """Return inputs of the same form, with a function applied to each tensor."""
    if isinstance(x, Tensor):
        return function(x)
    if isinstance(x, dict):
        return {name: function(value) for name, value in x.items()}
    return tuple(function(value) for value in x)


def concatenated(parts: Sequence[Inputs]) -> Inputs:
    """Return the inputs of several batches as those of one."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat([part for part in parts if isinstance(part, Tensor)])
    joined = [torch.cat(column) for column in zip(*map(tensors_in, parts), strict=True)]
    return dict(zip(first, joined, strict=True)) if isinstance(first, dict) else tuple(joined)


def num_examples(x: Inputs) -> int:
    """Return the number of examples."""
    return len(tensors_in(x)[0])


def device_of(x: Inputs) -> torch.device:
    """Return the device of inputs."""
    return tensors_in(x)[0].device


def describe_inputs(x: Inputs, *, dtypes: bool = True) -> str:
    """Return the shapes of inputs, for an error message; also their dtypes, if asked for."""

    def described(t: Tensor) -> str:
        return f"{tuple(t.shape)}" + (f" and dtype {t.dtype}" if dtypes else "")

    if isinstance(x, Tensor):
        return f"inputs of shape {described(x)}"
    names = x.keys() if isinstance(x, dict) else range(len(x))
    each = [f"{n} of shape {described(t)}" for n, t in zip(names, tensors_in(x), strict=True)]
    return f"inputs {', '.join(each)}"


def call(net: Callable[..., Any], x: Inputs) -> Any:
    """Return the outputs of a network for a batch."""
    if isinstance(x, Tensor):
        result = net(x)
    elif isinstance(x, dict):
        result = net(**x)
    else:
        result = net(*x)
    return result if isinstance(result, Tensor) else outputs_in(result)


def call_with(net: nn.Module, tensors: Mapping[str, Tensor], x: Inputs) -> Any:
    """Return the outputs of a network whose parameters and buffers have other values, by path."""

    def called(*args: Tensor, **kwargs: Tensor) -> Any:
        return functional_call(net, dict(tensors), args, kwargs)

    return call(called, x)


def outputs_in(result: Any) -> Any:
    """Return the outputs in what a network returns.

    They are the `logits` of an object that has these, and otherwise the result itself.
    """
    if isinstance(result, Mapping) and "logits" in result:
        return result["logits"]
    return getattr(result, "logits", result)

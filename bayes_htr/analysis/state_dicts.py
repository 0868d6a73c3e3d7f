"""The weights of a state dict, without the module that they belong to.

There is no layer's type then, and dimensions stand for it: two are a matrix `out x in` (an
embedding too), more a convolution `[out, in, ...]`. A transposed convolution, which stores
`[in, out, ...]`, is seen as one with `in` first: its slices are the same but for transposition,
and flattened it is another matrix than that of its module.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from bayes_htr.analysis.names import plain_names
from bayes_htr.analysis.weights import (
    Source,
    Weight,
    in_projections,
    kind_by_dimensions,
    reason_against,
)
from bayes_htr.errors import DataError

_INSIDE = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
"""Keys under which training scripts keep the state dict beside the optimiser's."""


def state_dict_source(state: Mapping[Any, Any], label: str = "the state dict") -> Source:
    """The weights of a state dict, or of the one inside of a checkpoint.

    Args:
        state: Tensors by name, or a checkpoint with them under one of the usual keys
            (`state_dict`, `model_state_dict`, `model`, ...).
        label: What errors call it.

    Raises:
        DataError: No tensors by name.
    """
    weights: list[Weight] = []
    skipped: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in _tensors(state, label).items():
        if not tensor.is_nested and tensor.ndim < 2:
            continue
        reason = _reason(tensor)
        if reason is None:
            key = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride())
            first = seen.setdefault(key, name)
            reason = None if first == name else f"tied to {first}"
        if reason is not None:
            skipped[name] = reason
            continue
        kind = kind_by_dimensions(tensor.ndim)
        load = partial(_same, tensor)
        weights.extend(in_projections(Weight(name, kind, tuple(tensor.shape), load)))
    return Source(label, tuple(weights), skipped)


def _tensors(state: Mapping[Any, Any], label: str) -> dict[str, Tensor]:
    within = [v for v in map(state.get, _INSIDE) if isinstance(v, Mapping)]
    found = [
        {str(k): v for k, v in inside.items() if isinstance(v, Tensor)}
        for inside in (*within, state)  # beside a state dict, a tensor is a count or a score
    ]
    matrices = [t for t in found if any(v.is_nested or v.ndim >= 2 for v in t.values())]
    tensors = next(iter([*matrices, *filter(None, found)]), None)
    if tensors is not None:
        return {name: tensors[key] for key, name in plain_names(tensors).items()}
    keys = ", ".join(repr(k) for k in list(state)[:8]) or "none"
    raise DataError(
        f"{label} holds no tensors by name (its keys: {keys}); give the state dict itself, or a "
        f"checkpoint with it under one of {', '.join(_INSIDE)}"
    )


def _reason(tensor: Tensor) -> str | None:
    if tensor.is_meta:
        return "it is on the meta device, without values"
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        kind = "nested" if tensor.is_nested else f"{tensor.layout}, {tensor.dtype}"
        return f"its layout is {kind}: give dense tensors"
    plain = type(tensor) in (Tensor, Parameter)
    if plain and tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        return "it repeats fewer entries than it has"  # and could claim any amount of memory
    return reason_against(tuple(tensor.shape), tensor.is_floating_point(), str(tensor.dtype))


def _same(tensor: Tensor) -> Tensor:
    return tensor

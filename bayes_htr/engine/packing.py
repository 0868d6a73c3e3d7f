"""Nested data with tensors as one tensor of bytes, which every format for weights can hold.

A module's extra state may be anything that can be pickled, but `safetensors` and the functions
`save_pretrained` of other libraries write tensors alone. The bytes are those of a safetensors
file whose metadata hold the rest as JSON: nothing in them is run when they are read.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from bayes_htr.errors import CheckpointError

_TENSOR, _REST = "tensor", "state"


def pack(state: Any) -> Tensor:
    """Pack nested dictionaries, lists, tuples, numbers, texts, `None` and tensors as bytes.

    Returns:
        `(bytes,)`, uint8, on the CPU. Tuples become lists.
    """
    tensors: dict[str, Tensor] = {}

    def without_tensors(value: Any) -> Any:
        if isinstance(value, Tensor):
            key = str(len(tensors))
            tensors[key] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            return {_TENSOR: key}
        if isinstance(value, dict):
            return {key: without_tensors(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [without_tensors(item) for item in value]
        return value

    rest = json.dumps(without_tensors(state))
    return torch.frombuffer(bytearray(save(tensors, {_REST: rest})), dtype=torch.uint8)


def unpack(packed: Tensor) -> Any:
    """Return the inverse of `pack`, with tensors on the CPU.

    Raises:
        CheckpointError: The bytes are not what `pack` returns.
    """
    try:
        data = packed.detach().cpu().contiguous().numpy().tobytes()
        tensors = load(data)
        (size,) = struct.unpack_from("<Q", data)
        rest = json.loads(data[8 : 8 + size])["__metadata__"][_REST]

        def with_tensors(value: Any) -> Any:
            if isinstance(value, dict):
                if value.keys() == {_TENSOR}:
                    return tensors[value[_TENSOR]]
                return {key: with_tensors(item) for key, item in value.items()}
            return [with_tensors(item) for item in value] if isinstance(value, list) else value

        return with_tensors(json.loads(rest))
    except (SafetensorError, TypeError, ValueError, KeyError, struct.error) as error:
        raise CheckpointError(
            f"the saved state of an energy cannot be read ({error}); leave out its key "
            "'_extra_state' to begin without cached gradients"
        ) from error

"""Folders that `torch.distributed.checkpoint` wrote, read in one process and without running code.

Such a folder holds a file `.metadata` and files of tensors or parts of them. PyTorch's own reader
unpickles the metadata as they are, which runs whatever a stranger put into them. Here every class
in them is replaced by a record that holds data, no file outside of the folder is opened, and parts
are read with `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bayes_htr._terminal import visible
from bayes_htr.analysis.checkpoints import find_state_dict
from bayes_htr.errors import CheckpointError

METADATA = ".metadata"


def load_distributed_checkpoint(folder: Path) -> dict[str, Tensor]:
    """Read the state dict in a folder of `torch.distributed.checkpoint`, without optimisers.

    Raises:
        CheckpointError: The metadata or a part cannot be read, or parts are missing.
        DataError: There is no state dict, or there are several.
    """
    try:
        with (folder / METADATA).open("rb") as file:
            metadata = _Records(file).load().__dict__
        tensors = {
            str(name): _described(stored.__dict__)
            for name, stored in metadata["state_dict_metadata"].items()
            if "size" in stored.__dict__
        }
        paths = metadata.get("planner_data") or {}
        parts: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
        for index, place in metadata["storage_data"].items():
            parts[str(index.__dict__["fqn"])].append((index.__dict__.get("offset"), place.__dict__))
        names = {id(tensor): name for name, tensor in tensors.items()}
        nested = _nested({name: (paths.get(name, name), t) for name, t in tensors.items()})
    except Exception as error:  # foreign bytes raise errors of many types
        raise CheckpointError(
            f"{folder / METADATA} is no metadata of torch.distributed.checkpoint that can be read "
            f"({visible(repr(error)[:200])}); write the checkpoint anew"
        ) from error
    chosen = find_state_dict(nested, str(folder))
    return {
        key: _assembled(folder, names[id(tensor)], tensor, parts[names[id(tensor)]])
        for key, tensor in chosen.items()
    }


class _Record:
    """A stand-in for an object of the metadata, which only keeps the attributes."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
            state = state[1]  # of a class with slots
        if isinstance(state, dict):
            self.__dict__.update({str(key): value for key, value in state.items()})
        elif isinstance(state, tuple):
            self.__dict__["state"] = state


class _Records(pickle.Unpickler):
    """An unpickler of metadata that puts records in place of all classes, and imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch", "Size"):
            return tuple
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return _Record

    def persistent_load(self, pid: Any) -> Any:
        return _Record()


def _described(stored: Mapping[str, Any]) -> Tensor:
    """Return a tensor of the right type and shape, without values."""
    properties = stored["properties"].__dict__
    dtype = properties.get("dtype", properties.get("state", (torch.float32,))[0])
    return torch.empty(stored["size"], dtype=dtype, device="meta")


def _nested(tensors: Mapping[str, tuple[Any, Tensor]]) -> dict[str, Any]:
    """Rebuild the mappings that were saved from the path of each tensor in them."""
    root: dict[str, Any] = {}
    for path, tensor in tensors.values():
        keys = [str(key) for key in path] if isinstance(path, tuple | list) else [str(path)]
        inner = root
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        inner[keys[-1]] = tensor
    return root


def _assembled(folder: Path, name: str, described: Tensor, parts: list[tuple[Any, Any]]) -> Tensor:
    """Return a tensor from its parts, each with the place where it begins.

    Raises:
        CheckpointError: A part cannot be read, or parts are missing.
    """
    size, dtype = described.shape, described.dtype
    held = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    if math.prod(size) * dtype.itemsize > held:
        raise CheckpointError(f"{folder}: {name!r} claims to be larger than all files together")
    whole, filled = torch.empty(size, dtype=dtype), 0
    for offset, place in parts:
        part = _read_part(folder, name, place)
        begins = tuple(offset) if offset is not None else (0,) * part.ndim
        ends = [b + n for b, n in zip(begins, part.shape, strict=False)]
        if len(ends) != len(size) or any(e > n for e, n in zip(ends, size, strict=True)):
            raise CheckpointError(f"{folder}: a part of {name!r} does not fit into {tuple(size)}")
        whole[tuple(slice(b, e) for b, e in zip(begins, ends, strict=True))] = part
        filled += part.numel()
    if filled != whole.numel():
        raise CheckpointError(
            f"{folder}: {name!r} has {whole.numel()} entries, and its parts {filled}; the "
            "checkpoint is incomplete"
        )
    return whole


def _read_part(folder: Path, name: str, place: Mapping[str, Any]) -> Tensor:
    file = folder / str(place["relative_path"])
    if Path(str(place["relative_path"])).name != place["relative_path"] or not file.is_file():
        raise CheckpointError(f"{folder}: {name!r} lies in {file.name!r}, which is no file there")
    if place.get("transform_descriptors"):
        raise CheckpointError(
            f"{folder}: {name!r} is stored with the transformations "
            f"{place['transform_descriptors']!r}, which are not read; save without them"
        )
    try:
        with file.open("rb") as opened:
            opened.seek(place["offset"])
            part = torch.load(io.BytesIO(opened.read(place["length"])), weights_only=True)
        if not isinstance(part, Tensor):
            raise TypeError(f"a {type(part).__name__}")
        return part.cpu()
    except Exception as error:  # foreign bytes raise errors of many types
        raise CheckpointError(
            f"{file} holds no tensor at the place of {name!r} ({visible(repr(error)[:200])}); the "
            "checkpoint is damaged"
        ) from error

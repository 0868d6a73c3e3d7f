"""Checkpoints written by `torch.save`: read without running what they hold.

`torch.load(weights_only=True)` builds tensors and plain containers and refuses everything else.
Files of the present format are mapped into memory, so that a tensor is read when it is used; those
that PyTorch wrote before 1.6 are read whole.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bayes_htr.analysis.state_dicts import state_dict_source
from bayes_htr.analysis.weights import Source
from bayes_htr.errors import CheckpointError, DataError

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


def torch_source(path: Path) -> Source:
    """The weights in a file of `torch.save`.

    Raises:
        CheckpointError: It cannot be read: truncated, foreign, or with objects other than tensors
            and plain data.
        DataError: It holds no tensors by name.
    """
    try:
        mapped = zipfile.is_zipfile(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # whatever foreign bytes make the unpickler stumble over
        raise CheckpointError(
            f"{path} cannot be read ({_first_line(error)}); it is empty, truncated, no file of "
            "torch.save, or holds objects other than tensors, which are not loaded, as that may "
            "run code: save the state dict alone, or as safetensors"
        ) from error
    if isinstance(state, Tensor) or not isinstance(state, Mapping):
        raise DataError(
            f"{path} holds a {type(state).__name__} and no state dict; save net.state_dict()"
        )
    return state_dict_source(state, str(path))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else repr(error))[:200]

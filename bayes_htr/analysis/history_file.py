"""Spectrum histories as files: spectra as safetensors, and what they are as JSON in its header."""

from __future__ import annotations

import json
from functools import partial
from itertools import pairwise
from os import PathLike
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bayes_htr._files import write_output
from bayes_htr.analysis.spectrum_records import SpectrumRecords
from bayes_htr.errors import CheckpointError

H = TypeVar("H", bound=SpectrumRecords)

_FORMAT = "bayes_htr spectrum history 2"
_ABOUT = "about"


def write(history: SpectrumRecords, path: str | PathLike[str]) -> None:
    """Write the file aside and rename it; see `SpectrumHistory.save`.

    Raises:
        OutputError: It cannot be written.
        ValueError: Nothing is recorded.
    """
    if not history.steps:
        raise ValueError("nothing is recorded yet; record a network first")
    about = {
        "format": _FORMAT,
        "steps": history.steps,
        "epochs": history.epochs,
        "matrices": list(history.matrices),
        "per_decade": history.per_decade,
        "names": list(history),
    }
    tensors = {name: history[name].contiguous() for name in history}
    save = partial(save_file, tensors, metadata={_ABOUT: json.dumps(about)})
    write_output(path, save, make_folder=True)


def read(kind: type[H], path: str | PathLike[str]) -> H:
    """Read the file; see `SpectrumHistory.load`.

    Raises:
        CheckpointError: A file that is missing, truncated, or foreign.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            about = json.loads((opened.metadata() or {})[_ABOUT])
            if about["format"] != _FORMAT:
                raise ValueError(f"the format is {about['format']!r}, not {_FORMAT!r}")
            return _checked(
                kind, about, {n: opened.get_tensor(n) for n in map(str, about["names"])}
            )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is no spectrum history that can be read: {error!r}"
        ) from error


def _checked(kind: type[H], about: Any, tensors: dict[str, Tensor]) -> H:
    steps = [int(step) for step in about["steps"]]
    if not steps or steps[0] < 0 or any(b <= a for a, b in pairwise(steps)):
        raise ValueError("the steps do not ascend from 0")
    epochs = [None if epoch is None else float(epoch) for epoch in about["epochs"]]
    if len(epochs) != len(steps):
        raise ValueError(f"{len(epochs)} epochs for {len(steps)} steps")
    history = kind([str(p) for p in about["matrices"]], per_decade=float(about["per_decade"]))
    history.steps, history.epochs = steps, epochs
    for name, lam in tensors.items():
        fine = lam.ndim == 2 and len(lam) == len(steps) and lam.shape[1] > 0
        if not fine or not lam.dtype.is_floating_point:
            raise ValueError(f"{name} has shape {tuple(lam.shape)} for {len(steps)} steps")
        if not bool((torch.isfinite(lam) & (lam >= 0)).all()):
            raise ValueError(f"{name} has eigenvalues that are negative or not finite")
        history._spectra[name] = list(lam)
    return history

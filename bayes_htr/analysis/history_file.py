"""Spectrum histories as files: spectra as safetensors, and beside them JSON with what they are."""

from __future__ import annotations

import json
from functools import partial
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bayes_htr.errors import CheckpointError, OutputError
from bayes_htr.inference.run_folder import write_aside

if TYPE_CHECKING:
    from bayes_htr.analysis.history import SpectrumHistory

H = TypeVar("H", bound="SpectrumHistory")

_FORMAT = "bayes_htr spectrum history 1"
_STEPS, _SPECTRUM = "steps", "spectrum:"
_LARGEST_JSON = 2**26
"""Bytes; a million records have less."""


def write(history: SpectrumHistory, path: str | PathLike[str]) -> None:
    """Write both files, each aside and then renamed; see `SpectrumHistory.save`.

    Raises:
        OutputError: They cannot be written.
        ValueError: Nothing is recorded, or `path` ends in `.json` itself.
    """
    target = Path(path)
    if target.suffix == ".json":
        raise ValueError(f"{target}: name the file of the spectra, such as history.safetensors")
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
    tensors = {_SPECTRUM + name: history[name].contiguous() for name in history}
    tensors[_STEPS] = torch.tensor(history.steps)
    text = json.dumps(about, indent=1) + "\n"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_aside(target, partial(save_file, tensors))
        write_aside(target.with_suffix(".json"), lambda p: p.write_text(text, encoding="utf-8"))
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{target} cannot be written: {error}; name another file") from error


def read(kind: type[H], path: str | PathLike[str]) -> H:
    """Read both files; see `SpectrumHistory.load`.

    Raises:
        CheckpointError: Files that are missing, truncated, foreign, or not of one save.
    """
    target = Path(path)
    beside = target.with_suffix(".json")
    try:
        if beside.stat().st_size > _LARGEST_JSON:
            raise ValueError(f"{beside} has more than {_LARGEST_JSON} bytes")
        about = json.loads(beside.read_text(encoding="utf-8"))
        return _checked(kind, about, load_file(target))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{target} with {beside.name} beside it is no spectrum history that can be read: "
            f"{error!r}"
        ) from error


def _checked(kind: type[H], about: Any, tensors: dict[str, Tensor]) -> H:
    if about["format"] != _FORMAT:
        raise ValueError(f"the format is {about['format']!r}, not {_FORMAT!r}")
    steps = [int(step) for step in about["steps"]]
    if tensors[_STEPS].tolist() != steps:
        raise ValueError("the two files are of different saves")
    if not steps or steps[0] < 0 or any(b <= a for a, b in pairwise(steps)):
        raise ValueError("the steps do not ascend from 0")
    epochs = [None if epoch is None else float(epoch) for epoch in about["epochs"]]
    if len(epochs) != len(steps):
        raise ValueError(f"{len(epochs)} epochs for {len(steps)} steps")
    history = kind([str(p) for p in about["matrices"]], per_decade=float(about["per_decade"]))
    history.steps, history.epochs = steps, epochs
    for name in map(str, about["names"]):
        lam = tensors[_SPECTRUM + name]
        fine = lam.ndim == 2 and len(lam) == len(steps) and lam.shape[1] > 0
        if not fine or not lam.dtype.is_floating_point:
            raise ValueError(f"{name} has shape {tuple(lam.shape)} for {len(steps)} steps")
        if not bool((torch.isfinite(lam) & (lam >= 0)).all()):
            raise ValueError(f"{name} has eigenvalues that are negative or not finite")
        history._spectra[name] = list(lam)
    return history

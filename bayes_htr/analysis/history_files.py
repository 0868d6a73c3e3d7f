"""Files of spectrum histories: spectra as safetensors, with the rest as JSON in the header."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from os import PathLike
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bayes_htr._files import write_output
from bayes_htr.errors import CheckpointError
from bayes_htr.spectra.layout import as_layouts

_FORMAT = "bayes_htr spectrum history 2"
_KEY = "about"


def write_history(
    path: str | PathLike[str], about: Mapping[str, Any], spectra: Mapping[str, Tensor]
) -> None:
    """Write a file, and the folder around it if that does not exist yet.

    Args:
        path: The file.
        about: `steps`, `epochs`, `matrices`, `per_decade` and `names`, as plain data.
        spectra: `(T, K)` eigenvalues by name; those of weights that diverged are not finite.

    Raises:
        OutputError: The file cannot be written.
    """
    header = {_KEY: json.dumps({"format": _FORMAT, **about})}
    tensors = {name: lam.contiguous() for name, lam in spectra.items()}
    write_output(path, partial(save_file, tensors, metadata=header), make_folder=True)


def read_history(path: str | PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read and check a file that `write_history` wrote.

    Returns:
        `steps`, `epochs`, `matrices`, `per_decade` and `layouts`; and `(T, K)` eigenvalues by name.

    Raises:
        CheckpointError: The file is missing, truncated, or foreign.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            about = json.loads((opened.metadata() or {})[_KEY])
            if about["format"] != _FORMAT:
                raise ValueError(f"the format is {about['format']!r}, not {_FORMAT!r}")
            spectra = {name: opened.get_tensor(name) for name in map(str, about["names"])}
        return _checked_about(about, spectra), spectra
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is no spectrum history that can be read: {error!r}"
        ) from error


def _checked_about(about: Any, spectra: Mapping[str, Tensor]) -> dict[str, Any]:
    steps = [int(step) for step in about["steps"]]
    if not steps or steps[0] < 0 or any(b <= a for a, b in pairwise(steps)):
        raise ValueError("the steps do not ascend from 0")
    epochs = [None if epoch is None else float(epoch) for epoch in about["epochs"]]
    if len(epochs) != len(steps):
        raise ValueError(f"{len(epochs)} epochs for {len(steps)} steps")
    per_decade = float(about["per_decade"])
    if not 0 < per_decade < math.inf:
        raise ValueError(f"per_decade={per_decade!r} must be a positive number")
    for name, lam in spectra.items():
        right_shape = lam.ndim == 2 and len(lam) == len(steps) and lam.shape[1] > 0
        if not right_shape or not lam.dtype.is_floating_point:
            raise ValueError(f"{name} has shape {tuple(lam.shape)} for {len(steps)} steps")
        if bool((lam < 0).any()):
            raise ValueError(f"{name} has eigenvalues that are negative")
    matrices = [str(pattern) for pattern in about["matrices"]]
    layouts = about.get("layouts", {})  # earlier versions had none
    as_layouts(layouts)
    return {
        "steps": steps,
        "epochs": epochs,
        "matrices": matrices,
        "per_decade": per_decade,
        "layouts": layouts,
    }

"""safetensors files, one or sharded, of which one tensor at a time is in memory.

The file is opened anew for each tensor: what has been read from it does not stay mapped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from bayes_htr.analysis.names import plain_names
from bayes_htr.analysis.weights import (
    Source,
    Weight,
    in_projections,
    kind_by_dimensions,
    reason_against,
)
from bayes_htr.errors import CheckpointError

INDEX = ".safetensors.index.json"
_LONGEST_INDEX = 100_000_000  # bytes
_FLOATING = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}


def safetensors_source(files: Iterable[Path], label: str, expected: Iterable[str] = ()) -> Source:
    """The weights in one or more files.

    Args:
        files: The files.
        label: What errors call them together.
        expected: Names that have to be in them.

    Raises:
        CheckpointError: A file that cannot be read, a name that two of them hold, or one that none
            holds.
    """
    weights: list[Weight] = []
    skipped: dict[str, str] = {}
    where: dict[str, Path] = {}
    missing = set(expected)
    for file in files:
        header = _header(file)
        names = plain_names(key for key, *_ in header)
        missing -= set(names)
        for key, shape, dtype in header:
            name = names[key]
            if name in where:
                raise CheckpointError(
                    f"{name} is in {where[name].name} and in {file.name}; name one of the files"
                )
            where[name] = file
            if len(shape) < 2:
                continue
            reason = reason_against(shape, dtype in _FLOATING, dtype)
            if reason is not None:
                skipped[name] = reason
                continue
            kind = kind_by_dimensions(len(shape))
            weights.extend(in_projections(Weight(name, kind, shape, partial(_read, file, key))))
    if missing:
        raise CheckpointError(
            f"{label}: the index names {sorted(missing)[0]!r}, which is in none of its files; the "
            "checkpoint is incomplete"
        )
    return Source(label, tuple(weights), skipped)


def index_source(index: Path, label: str) -> Source:
    """The weights in the files that an index names, beside it.

    Raises:
        CheckpointError: An index that cannot be read, or names what is not there or elsewhere.
    """
    try:
        if index.stat().st_size > _LONGEST_INDEX:
            raise ValueError(f"longer than {_LONGEST_INDEX} bytes")
        shards = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        names = sorted(set(shards.values()))
        files = [index.parent / name for name in names]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{index} is no index of safetensors files ({error!r}); write the checkpoint anew"
        ) from error
    for name, file in zip(names, files, strict=True):
        if Path(name).name != name or not file.is_file():
            raise CheckpointError(
                f"{index} names {name!r}, which is no file beside it; the checkpoint is incomplete"
            )
    return safetensors_source(files, label, shards)


def _header(file: Path) -> list[tuple[str, tuple[int, ...], str]]:
    """Name, shape and type of every tensor."""
    try:
        with safe_open(file, framework="pt") as opened:
            found = []
            for key in opened.keys():  # noqa: SIM118 - no mapping
                part = opened.get_slice(key)
                found.append((key, tuple(part.get_shape()), str(part.get_dtype())))
            return found
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _unreadable(file, error) from error


def _read(file: Path, key: str) -> Tensor:
    try:
        with safe_open(file, framework="pt") as opened:
            return opened.get_tensor(key)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{file} cannot be read ({error}); it is empty, truncated or no safetensors file: write it "
        "anew"
    )

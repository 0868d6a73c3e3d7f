"""The part of a checkpoint that is the network: a state dict in it, and the files in its folder.

Training scripts store a state dict together with many other things, under keys of their own.
Without the states of optimisers, it is the only mapping, at any depth, that contains matrices by
name. If there are several, the one under a usual key is used, and a warning names the others.
Without a usual key the caller has to choose.

**Refused pickles.** `torch.load(weights_only=True)` loads only tensors and plain data. If a file
contains anything else, the error names the classes, which are looked up without loading the file.
"""

from __future__ import annotations

import contextlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

from bayes_htr._terminal import visible
from bayes_htr.errors import CheckpointError, DataError

STATE_KEYS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "weights", "params"),
    *("model_state", "module"),
)
"""Keys under which training scripts keep the state dict beside the optimiser's, by preference."""

_NO_NETWORKS = re.compile(r"optim|sched|scaler|callbacks|loops|rng_|random_state|grad", re.I)
_NO_WEIGHTS = re.compile(
    r"(optimizer|optim|scheduler|scaler|rng_state|random_states|training_args|trainer_state)"
    r"([._-]|$)",
    re.I,
)
_PREFERRED_FILES = re.compile(r"(pytorch_model|model|weights)\.[a-z]+$", re.I)
_DEPTH = 6
_MOST_NAMED = 12


def find_state_dict(checkpoint: Any, label: str) -> dict[str, Any]:
    """Find the state dict in a checkpoint.

    Args:
        checkpoint: A state dict, or mappings and sequences around one.
        label: The name of the checkpoint in messages.

    Returns:
        The tensors and arrays by name. If none of them has two dimensions, the result has those of
        the checkpoint itself.

    Raises:
        DataError: There is no tensor by name, or there are several state dicts, none of them under
            a usual key.
    """
    if not isinstance(checkpoint, Mapping | list | tuple):
        raise DataError(
            f"{label} holds a {type(checkpoint).__name__} and no state dict; save net.state_dict()"
        )
    state_dicts = dict(_state_dicts(checkpoint, (), set()))
    with_matrices = {path: s for path, s in state_dicts.items() if _num_matrices(s)}
    if not with_matrices:
        tensors = next(iter(state_dicts.values()), None)
        if tensors is not None:
            return tensors
        keys = ", ".join(map(repr, list(checkpoint)[:8] if isinstance(checkpoint, Mapping) else []))
        modules = [
            f"{key!r} is a module: give that"
            for key, value in (checkpoint.items() if isinstance(checkpoint, Mapping) else ())
            if isinstance(value, nn.Module)
        ]
        advice = (modules or ["give the state dict itself, or a checkpoint that contains it"])[0]
        raise DataError(
            f"{label} holds no tensors by name (its keys: {visible(keys) or 'none'}); {advice}"
        )
    chosen = _preferred(list(with_matrices))
    if chosen is None and len(with_matrices) > 1:
        raise DataError(
            f"{label} holds {len(with_matrices)} state dicts: {_listed(with_matrices)}; give one "
            f"of them, such as checkpoint{_indexed(next(iter(with_matrices)))}"
        )
    if chosen is None:
        chosen = next(iter(with_matrices))
    others = {path: s for path, s in with_matrices.items() if path and path != chosen}
    if others and chosen:
        warnings.warn(
            f"{label} holds other state dicts beside {'.'.join(chosen)!r}, which is analysed: "
            f"{_listed(others)}",
            stacklevel=2,
        )
    return with_matrices[chosen]


def _state_dicts(
    value: Any, path: tuple[str, ...], visited: set[int]
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield the tensors of every mapping that contains some, after the keys that lead to it."""
    if isinstance(value, list | tuple):
        value = dict(enumerate(value[:100]))
    if not isinstance(value, Mapping) or id(value) in visited or len(path) > _DEPTH:
        return
    visited.add(id(value))
    if tensors := {str(k): v for k, v in value.items() if isinstance(v, Tensor | np.ndarray)}:
        yield path, tensors
    for key, inner in value.items():
        if not _NO_NETWORKS.search(str(key)):
            yield from _state_dicts(inner, (*path, str(key)), visited)


def _num_matrices(tensors: Mapping[str, Any]) -> int:
    return sum(_is_matrix(value) for value in tensors.values())


def _is_matrix(value: Any) -> bool:
    return bool((isinstance(value, Tensor) and value.is_nested) or value.ndim >= 2)


def _preferred(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
    """Return the first path that has only usual keys, by preference; else the checkpoint itself."""
    usual = [path for path in paths if path and all(key in STATE_KEYS for key in path)]
    if usual:
        return min(usual, key=lambda path: [STATE_KEYS.index(key) for key in path])
    return () if () in paths else None


def _listed(state_dicts: Mapping[tuple[str, ...], Mapping[str, Any]]) -> str:
    parts = [
        f"{'.'.join(path) or 'the checkpoint itself'!r} ({_num_matrices(tensors)} matrices)"
        for path, tensors in list(state_dicts.items())[:_MOST_NAMED]
    ]
    return visible(", ".join(parts + ["..."] * (len(state_dicts) > _MOST_NAMED)))


def _indexed(path: Sequence[str]) -> str:
    return visible("".join(f"[{key!r}]" for key in path))


# Files


def weight_files(files: Sequence[Path], folder: Path) -> list[Path]:
    """Return the files of a folder that contain weights.

    These are a single file, or the parts of one checkpoint. The names tell which files are states
    of optimisers, schedulers and random generators.

    Args:
        files: Files of `torch.save`.
        folder: The folder, for the error.

    Raises:
        CheckpointError: No file is left, or several files without a usual name.
    """
    weights = [file for file in files if not _NO_WEIGHTS.match(file.name)]
    usual = [file for file in weights if _PREFERRED_FILES.match(file.name)]
    if len(weights) == 1 or len(usual) == 1:
        return usual or weights
    named = ", ".join(file.name for file in weights[:_MOST_NAMED])
    raise CheckpointError(
        visible(
            f"{folder} holds no safetensors file and {len(weights)} files of torch.save with "
            f"weights{f' ({named})' if named else ''}; name one of them"
        )
    )


def is_torch_file(path: Path) -> bool:
    """Return whether a file begins like a file of `torch.save`, whatever its name is."""
    with path.open("rb") as file:
        return file.read(2)[:1] == b"\x80" or zipfile.is_zipfile(path)


def load_torch_file(path: Path) -> Any:
    """Read a file of `torch.save` without running code from it; tensors are mapped if possible.

    Raises:
        CheckpointError: The file is empty, truncated or foreign, or holds other objects.
    """
    if _is_torchscript(path):
        raise CheckpointError(
            f"{path} cannot be read: it is an archive of TorchScript, which holds code; if you "
            "trust it, load it with torch.jit.load and give its state_dict()"
        )
    try:
        mapped = zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # foreign bytes raise errors of many types in the unpickler
        if classes := refused_classes(path):
            raise CheckpointError(
                f"{path} cannot be read: it holds objects of {', '.join(classes)}, which are not "
                "loaded, as that may run code: save the state dict alone, or as safetensors"
            ) from error
        lines = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", str(error)).strip().splitlines()
        reason = visible((lines[0] if lines else repr(error))[:200])
        raise CheckpointError(
            f"{path} cannot be read ({reason}); it is empty, truncated, no file of torch.save, or "
            "holds objects other than tensors, which are not loaded, as that may run code: save "
            "the state dict alone, or as safetensors"
        ) from error


def _is_torchscript(path: Path) -> bool:
    with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())
    return False


def refused_classes(path: Path) -> list[str]:
    """Return the names of the classes and functions in a pickle that `torch.load` refuses.

    The pickle is not loaded.

    Returns:
        Up to 12 names; empty if none is refused or the file is no pickle.
    """
    try:
        if zipfile.is_zipfile(path):
            refused = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        else:
            refused = _globals(path)
    except Exception:  # a foreign file, of which the caller's error says so
        return []
    names = [visible(name) for name in dict.fromkeys(refused) if not _HARMLESS.fullmatch(name)]
    return names[:_MOST_NAMED]


_HARMLESS = re.compile(
    r"torch\._utils\..*|torch\.\w+|collections\.(OrderedDict|defaultdict|Counter)|_codecs\.encode"
    r"|(builtins|__builtin__)\.(list|dict|set|tuple|int|float|complex|str|bool|bytearray|object)"
    r"|typing\.\w+"
)
"""Names of plain data and tensors, which do not explain why a pickle is refused."""


class _Inert:
    """A stand-in that does nothing, for every object in a pickle whose names are listed."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass


class _Names(pickle.Unpickler):
    """An unpickler that collects the names in a pickle, and imports and calls none of them."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin-1")
        self.names: list[str] = []

    def find_class(self, module: str, name: str) -> Any:
        self.names.append(f"{module}.{name}")
        return _Inert

    def persistent_load(self, pid: Any) -> Any:
        return _Inert  # a storage, or the class of a module


def _globals(path: Path) -> list[str]:
    """Return the names in the pickles at the beginning of a file, except those of tensors."""
    names: list[str] = []
    with path.open("rb") as file, contextlib.suppress(Exception):  # what follows may be no pickle
        for _ in range(5):  # the older format: a number, a version, the system, and the object
            unpickler = _Names(file)
            try:
                unpickler.load()
            finally:
                names += unpickler.names
    return names

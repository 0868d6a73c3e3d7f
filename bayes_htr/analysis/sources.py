"""Sources of weights: a module, a state dict, a file, or a folder of files.

**State dicts** do not tell the type of a layer, so that the number of dimensions decides. Names say
which tensors are no weights, and from which tensors a weight is computed (`state_dicts.py`). A
tensor of two dimensions is a matrix `out x in` (also an embedding), and a tensor of more dimensions
is a convolution `[out, in, ...]`. A transposed convolution, which is stored as `[in, out, ...]`,
appears with `in` first. Its slices are therefore transposed, and flattened it is a different matrix
from that of its module. Arrays of NumPy count as tensors.

**Files of `torch.save`** are read with `torch.load(weights_only=True)`, which builds tensors and
plain containers, refuses everything else, and runs no code from the file. Files of the present
format are mapped into memory, so that a tensor is read when it is used; files from before PyTorch
1.6 are read whole.

**safetensors files**, single or sharded, are opened anew for each tensor, so that only one tensor
at a time is in memory, and no tensor stays mapped after it has been read.

**The order of weights** is that of the layers, from the first to the last, as far as the source
tells it. A module tells it by its submodules, and a state dict has the order of its module. A
safetensors file is in alphabetical order, in which layer 10 comes before layer 2; its names are put
into their natural order, by the numbers in them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import Parameter

from bayes_htr.analysis.checkpoints import (
    find_state_dict,
    is_torch_file,
    load_torch_file,
    weight_files,
)
from bayes_htr.analysis.distributed_checkpoints import METADATA, load_distributed_checkpoint
from bayes_htr.analysis.state_dicts import Stored, add_stored
from bayes_htr.analysis.weights import Source, module_source
from bayes_htr.errors import CheckpointError, DataError
from bayes_htr.spectra.layout import Layouts, unmatched
from bayes_htr.spectra.modules import unwrap
from bayes_htr.spectra.names import plain_name, without_wrappers

_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
_INDEX = ".safetensors.index.json"
_TORCH_INDEX = ".bin.index.json"
_PREFERRED = ("model.safetensors", "weights.safetensors")
_LARGEST_INDEX = 100_000_000  # bytes
_FLOATING = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
_DIGITS = re.compile(r"(\d+)")
_UNREADABLE = (SafetensorError, OSError, ValueError, KeyError)


def open_source(
    source: nn.Module | Mapping[str, Tensor] | str | PathLike[str] | Any,
    layouts: Layouts = (),
    *,
    spread: bool = False,
) -> Source:
    """Collect the weights of a network without reading them.

    Args:
        source: A module; a state dict, or a checkpoint that contains one; a file of `torch.save`
            (`.pt`, `.pth`, `.bin`, `.ckpt`, or any name if the content begins like such a file) or
            of safetensors; the index of a sharded file (`model.safetensors.index.json`,
            `pytorch_model.bin.index.json`); or a folder with such files, or a folder of
            `torch.distributed.checkpoint`.
        layouts: The declared layouts of tensors, by patterns on names.
        spread: Whether parameters of a module may be `DTensor`s.

    Raises:
        DataError: The source is something else, or contains no tensors, or a pattern of the layouts
            matches no tensor.
        CheckpointError: A file or folder does not exist or cannot be read.
        SpectrumError: A layout does not fit its tensor.
    """
    if isinstance(source, nn.Module):
        opened = in_module_order(module_source(source, layouts, spread=spread), source)
    else:
        label, stored = _stored(source)
        opened = Source(label, layouts=layouts)
        add_stored(opened, stored)
    for pattern in unmatched(layouts, opened.names):
        names = ", ".join(aliases[0] for aliases in opened.names[:20]) or "none"
        raise DataError(
            f"matrices: the pattern {pattern!r} matches no tensor of {opened.label}; there are: "
            f"{names}"
        )
    return opened


def _stored(source: Any) -> tuple[str, dict[str, Stored]]:
    """Return the label of a state dict or a path, and its tensors by plain names."""
    if isinstance(source, Mapping):
        return "the state dict", _from_state_dict(source, "the state dict")
    if not isinstance(source, str | PathLike):
        one_array = isinstance(source, Tensor | np.ndarray)
        raise DataError(
            f"an object of type {type(source).__name__} holds no network's weights by name; give "
            + ("it as {'name': array}, or " if one_array else "")
            + "a module, a state dict, or the path of a .pt, .pth or .safetensors file"
        )
    path = Path(fspath(source))
    try:
        if path.is_dir():
            return str(path), _from_folder(path)
        exists = path.is_file()
    except OSError as error:  # a folder that may not be listed, or a name that is too long
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not exists:
        raise CheckpointError(f"{path} does not exist; name a file, or a folder of one network")
    if path.name.endswith(_INDEX):
        return str(path), _from_index(path, str(path))
    if path.suffix == ".safetensors":
        return str(path), _from_safetensors([path], str(path))
    if path.name.endswith(_TORCH_INDEX):
        return str(path), _from_torch_index(path)
    if is_torch_file(path) or path.suffix in _TORCH_SUFFIXES:
        return str(path), _from_torch_file(path)
    raise DataError(
        f"{path} ends in {path.suffix or 'nothing'} and is no file of torch.save; files of weights "
        f"end in {', '.join(_TORCH_SUFFIXES)}, .safetensors, {_INDEX} or {_TORCH_INDEX}; of other "
        "formats, give a mapping of names to tensors"
    )


def _from_folder(path: Path) -> dict[str, Stored]:
    indices = [i for i in path.glob(f"*{_INDEX}") if i.name == f"model{_INDEX}"]
    indices = indices or sorted(path.glob(f"*{_INDEX}"))
    if len(indices) > 1:
        raise CheckpointError(f"{path} holds {len(indices)} indices; name one of them")
    if indices:
        return _from_index(indices[0], str(path))
    files = sorted(path.glob("*.safetensors"))
    if preferred := [path / name for name in _PREFERRED if path / name in files]:
        files = preferred[:1]
    if files:
        return _from_safetensors(files, str(path))
    if (path / METADATA).is_file():
        return _from_state_dict(load_distributed_checkpoint(path), str(path))
    indices = sorted(path.glob(f"*{_TORCH_INDEX}"))
    if len(indices) == 1:
        return _from_torch_index(indices[0])
    files = sorted(p for p in path.iterdir() if p.suffix in _TORCH_SUFFIXES and p.is_file())
    return _from_torch_file(weight_files(files, path)[0])


# State dicts


def _from_state_dict(state: Mapping[Any, Any], label: str) -> dict[str, Stored]:
    stored: dict[str, Stored] = {}
    first_names: dict[tuple[Any, ...], str] = {}
    for name, value in _tensors(state, label).items():
        tensor, reason = _as_tensor(value)
        reason = reason or _reason_against(tensor)
        if reason is None and tensor.ndim >= 2 and tensor.numel():
            storage = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride())
            first = first_names.setdefault(storage, name)
            reason = None if first == name else f"tied to {first}"
        shape = (0, 0) if tensor.is_nested else tuple(tensor.shape)
        floating = tensor.is_floating_point()
        stored[name] = Stored(
            name, shape, str(tensor.dtype), floating, tensor.detach, reason=reason
        )
    return stored


def _as_tensor(value: Any) -> tuple[Tensor, str | None]:
    """Return a value of a state dict as a tensor, and the reason why it is no matrix.

    The reason is `None` unless entries are masked or torch has no such dtype.
    """
    if isinstance(value, Tensor):
        return value, None
    masked = int(np.ma.getmaskarray(value).sum()) if isinstance(value, np.ma.MaskedArray) else 0
    array = np.asarray(value)
    if array.dtype.byteorder not in "=|" or any(s < 0 for s in array.strides):
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    try:
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    except TypeError:
        return torch.empty(array.shape, device="meta"), f"{array.dtype} is no type of torch"
    reason = f"{masked} of its {array.size} entries are masked" if masked else None
    return tensor, reason


def _tensors(state: Mapping[Any, Any], label: str) -> dict[str, Tensor | np.ndarray[Any, Any]]:
    """Return the tensors and arrays of a state dict, by plain names.

    The state dict may be the one in a checkpoint.
    """
    tensors = find_state_dict(state, label)
    return {name: tensors[key] for key, name in _plain_names(tensors).items()}


def _reason_against(tensor: Tensor) -> str | None:
    if tensor.is_meta:
        return "it is on the meta device, without values"
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        kind = "nested" if tensor.is_nested else f"{tensor.layout}, {tensor.dtype}"
        return f"its layout is {kind}: give dense tensors"
    plain = type(tensor) in (Tensor, Parameter)
    if plain and tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        return "it repeats fewer entries than it has"  # and could claim any amount of memory
    return None


def _plain_names(names: Iterable[str]) -> dict[str, str]:
    """Return each name without the additions of `DataParallel` and `torch.compile`.

    Names that would become equal stay as they are.
    """
    plain = {name: without_wrappers(name) for name in names}
    count = Counter(plain.values())
    return {name: short if count[short] == 1 else name for name, short in plain.items()}


# Files of torch.save


def _from_torch_file(path: Path) -> dict[str, Stored]:
    return _from_state_dict(load_torch_file(path), str(path))


def _from_torch_index(index: Path) -> dict[str, Stored]:
    """Collect the weights in the files of `torch.save` that an index beside them names."""
    state: dict[str, Tensor] = {}
    shards = _shards(index)
    for file in dict.fromkeys(shards.values()):
        state |= find_state_dict(load_torch_file(file), str(file))
    missing = sorted(set(shards) - set(state))
    if missing:
        raise CheckpointError(
            f"{index} names {missing[0]!r}, which is in none of its files; the checkpoint is "
            "incomplete"
        )
    return _from_state_dict(state, str(index))


# safetensors files


def _from_safetensors(
    files: Iterable[Path], label: str, expected: Iterable[str] = ()
) -> dict[str, Stored]:
    """Collect the tensors of one or more files, which must contain the expected names."""
    stored: dict[str, Stored] = {}
    files_by_name: dict[str, Path] = {}
    missing = set(expected)
    for file in files:
        header = _header(file)
        names = _plain_names(key for key, *_ in header)
        missing -= set(names)
        for key, shape, dtype in header:
            name = names[key]
            if name in files_by_name:
                raise CheckpointError(
                    f"{name} is in {files_by_name[name].name} and in {file.name}; name one of the "
                    "files"
                )
            files_by_name[name] = file
            load, load_slice = partial(_read_tensor, file, key), partial(_read_slice, file, key)
            stored[name] = Stored(name, shape, dtype, dtype in _FLOATING, load, load_slice)
    if missing:
        raise CheckpointError(
            f"{label}: the index names {sorted(missing)[0]!r}, which is in none of its files; the "
            "checkpoint is incomplete"
        )
    # A file is in alphabetical order, in which layer 10 comes before layer 2.
    return {name: stored[name] for name in sorted(stored, key=natural)}


def _from_index(index: Path, label: str) -> dict[str, Stored]:
    """Collect the weights in the safetensors files that an index beside them names."""
    shards = _shards(index)
    return _from_safetensors(dict.fromkeys(shards.values()), label, shards)


def _shards(index: Path) -> dict[str, Path]:
    """Return the file of each tensor, by name, according to an index.

    All files lie beside the index.
    """
    try:
        if index.stat().st_size > _LARGEST_INDEX:
            raise ValueError(f"longer than {_LARGEST_INDEX} bytes")
        shards = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        files = {name: index.parent / name for name in sorted(set(shards.values()))}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{index} is no index of files of weights ({error!r}); write the checkpoint anew"
        ) from error
    for name, file in files.items():
        if Path(name).name != name or not file.is_file():
            raise CheckpointError(
                f"{index} names {name!r}, which is no file beside it; the checkpoint is incomplete"
            )
    return {key: files[name] for key, name in shards.items()}


def _header(file: Path) -> list[tuple[str, tuple[int, ...], str]]:
    """Return the key, shape and type of every tensor."""
    try:
        with safe_open(file, framework="pt") as opened:
            slices = [(key, opened.get_slice(key)) for key in opened.keys()]  # noqa: SIM118
            return [(key, tuple(s.get_shape()), str(s.get_dtype())) for key, s in slices]
    except _UNREADABLE as error:
        raise _unreadable(file, error) from error


def _read_tensor(file: Path, key: str) -> Tensor:
    try:
        with safe_open(file, framework="pt") as opened:
            return opened.get_tensor(key)
    except _UNREADABLE as error:
        raise _unreadable(file, error) from error


def _read_slice(file: Path, key: str, index: int) -> Tensor:
    """Return one index of the first axis of a tensor, `(1, ...)`."""
    try:
        with safe_open(file, framework="pt") as opened:
            part: Tensor = opened.get_slice(key)[index : index + 1]
            return part
    except _UNREADABLE as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{file} cannot be read ({error}); it is empty, truncated or no safetensors file: write it "
        "anew"
    )


def natural(name: str) -> tuple[tuple[tuple[int, int, str], ...], ...]:
    """Return a key that compares the numbers in names as numbers: `h.2.w` comes before `h.10.w`.

    The parts of one tensor, such as `in_proj_weight[q]`, have equal keys.
    """
    components = (_DIGITS.split(part) for part in name.partition("[")[0].split("."))
    return tuple(
        tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts if p)
        for parts in components
    )


def in_module_order(source: Source, module: nn.Module) -> Source:
    """Put the weights, also computed ones, into the order of the submodules that have them.

    Args:
        source: The weights of the module, which are reordered.
        module: The module.
    """
    paths = (plain_name(path) for path, _ in unwrap(module).named_modules())
    places = {path: place for place, path in reversed(list(enumerate(paths)))}

    def place(name: str) -> int:
        owner = name.partition("[")[0]
        while owner and owner not in places:
            owner = owner.rpartition(".")[0]
        return places.get(owner, 0)

    source.weights.sort(key=lambda weight: place(weight.name))
    return source

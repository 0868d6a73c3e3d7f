"""Where weights come from: a module, a state dict, a file, or a folder of files."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bayes_htr.analysis.modules import module_source
from bayes_htr.analysis.safetensors_files import INDEX, index_source, safetensors_source
from bayes_htr.analysis.state_dicts import state_dict_source
from bayes_htr.analysis.torch_files import SUFFIXES, torch_source
from bayes_htr.analysis.weights import Source
from bayes_htr.errors import CheckpointError, DataError

_PREFERRED = ("model.safetensors", "weights.safetensors")


def open_source(source: nn.Module | Mapping[str, Tensor] | str | PathLike[str] | Any) -> Source:
    """The weights of a network, of which none is read yet.

    Args:
        source: A module; a state dict, or a checkpoint around one; a file of `torch.save` (`.pt`,
            `.pth`, `.bin`, `.ckpt`) or of safetensors; the index of a sharded one
            (`model.safetensors.index.json`); or a folder that holds such files.

    Raises:
        DataError: Something else, or no tensors in it.
        CheckpointError: A file or folder that is not there or cannot be read.
    """
    if isinstance(source, nn.Module):
        return module_source(source)
    if isinstance(source, Mapping):
        return state_dict_source(source)
    if not isinstance(source, str | PathLike):
        raise DataError(
            f"a {type(source).__name__} holds no network's weights; give a module, a state dict, "
            "or the path of a .pt, .pth or .safetensors file"
        )
    path = Path(fspath(source))
    try:
        if path.is_dir():
            return _folder(path)
        there = path.is_file()
    except OSError as error:  # a folder that may not be listed, a name that is too long
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not there:
        raise CheckpointError(f"{path} does not exist; name a file, or a folder of one network")
    if path.name.endswith(INDEX):
        return index_source(path, str(path))
    if path.suffix == ".safetensors":
        return safetensors_source([path], str(path))
    if path.suffix in SUFFIXES:
        return torch_source(path)
    raise DataError(
        f"{path} ends in {path.suffix or 'nothing'}; files of weights end in "
        f"{', '.join(SUFFIXES)}, .safetensors or {INDEX}"
    )


def _folder(path: Path) -> Source:
    indices = [i for i in path.glob(f"*{INDEX}") if i.name == f"model{INDEX}"]
    indices = indices or sorted(path.glob(f"*{INDEX}"))
    if len(indices) > 1:
        raise CheckpointError(f"{path} holds {len(indices)} indices; name one of them")
    if indices:
        return index_source(indices[0], str(path))
    files = sorted(path.glob("*.safetensors"))
    if preferred := [path / name for name in _PREFERRED if path / name in files]:
        files = preferred[:1]
    if files:
        return safetensors_source(files, str(path))
    files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file())
    if len(files) == 1:
        return torch_source(files[0])
    raise CheckpointError(
        f"{path} holds no safetensors file and {len(files)} files of torch.save; name one of them"
    )

"""Writing files atomically: a reader or a killed process never sees half of one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from bayes_htr.errors import OutputError


def atomic_write(target: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a temporary file beside `target`, and rename it to `target`.

    Raises:
        OSError: Writing failed; `target` is as it was before.
    """
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def write_output(
    path: str | PathLike[str], write: Callable[[Path], Any], *, make_folder: bool = False
) -> Path:
    """Write a file that a caller has named, as `atomic_write` does, and return its path.

    Args:
        path: The file.
        write: Writes the content to the path that it is called with.
        make_folder: Whether a folder that does not exist yet is made.

    Raises:
        OutputError: The file cannot be written; if there was one before, it is unchanged.
    """
    target = Path(path)
    try:
        if make_folder:
            target.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(target, write)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{target} cannot be written: {error}; name another file") from error
    return target


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

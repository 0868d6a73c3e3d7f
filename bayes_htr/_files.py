"""Atomic writing: nobody ever finds half a file, even if a process was killed.

A file is written beside its target under a temporary name, flushed to disk, and renamed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from bayes_htr.errors import OutputError

Writer = Callable[[Path], Any]
"""Writes the content of a file to the path that it is called with."""

_STALE = 3600.0
"""Age in seconds after which a temporary file is taken for that of a killed process."""
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Waits in seconds between attempts on Windows to replace a file that somebody has open."""
_CHUNK = 2**20

_FULL = {
    errno.ENOSPC: "the disk is full",
    getattr(errno, "EDQUOT", -1): "the disk quota is used up",
    errno.EFBIG: "the file would be larger than the system allows (ulimit -f)",
}
_OTHER = {
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.ENOENT: "the folder is missing, or was removed meanwhile",
    errno.ENOTDIR: "a file is where its folder should be",
}


def atomic_write(target: Path, write: Writer) -> None:
    """Let `write` make a temporary file beside `target`, and rename it to `target`.

    Raises:
        OutputError: Writing failed; `target` is as it was before.
    """
    try:
        publish(stage(target, write), target)
    except Exception as error:
        if not is_write_failure(error):
            raise
        before = "; the file that was there is unchanged" if target.is_file() else ""
        room = "make room, or " if is_full(error) else ""
        raise OutputError(
            f"{target} cannot be written: {reason(error)}{before}; {room}name another file"
        ) from error


def write_output(path: str | PathLike[str], write: Writer, *, make_folder: bool = False) -> Path:
    """Write a file that a caller has named, as `atomic_write` does, and return its path.

    Args:
        path: The file.
        write: Writes the content to the path that it is called with.
        make_folder: Whether a folder that does not exist yet is made.

    Raises:
        OutputError: The file cannot be written; if there was one before, it is unchanged.
    """
    target = Path(path)
    if make_folder:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{target} cannot be written: {reason(error)}; name another file"
            ) from error
    atomic_write(target, write)
    return target


def stage(target: Path, write: Writer) -> Path:
    """Write a temporary file beside `target`, and wait until it is on the disk.

    Temporary files of the same target that a killed process left an hour ago or more are removed.

    Returns:
        The temporary file, for `publish`. After an error there is none.

    Raises:
        OSError: The file cannot be made; `write` may raise other errors.
    """
    _remove_stale(target)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    os.close(os.open(temporary, flags, 0o666))  # less what the umask takes away
    try:
        write(temporary)
        with temporary.open("rb+") as file:  # Windows flushes no file that is open for reading
            os.fsync(file.fileno())
    except BaseException:
        discard(temporary)
        raise
    return temporary


def publish(temporary: Path, target: Path) -> None:
    """Rename a staged file to its target; after an error the staged file is removed.

    Raises:
        OSError: The file cannot be renamed; `target` is as it was before.
    """
    try:
        if sys.platform == "win32":  # there, a file that somebody reads cannot be replaced
            for pause in _PAUSES:
                with contextlib.suppress(PermissionError):
                    temporary.replace(target)
                    return
                time.sleep(pause)
        temporary.replace(target)
    finally:
        discard(temporary)


def replace_folder(target: Path, write: Writer) -> None:
    """Let `write` make a folder, move it to `target`, and remove the folder that was there.

    Args:
        target: The folder.
        write: Writes the new folder to the path that it is called with.

    Raises:
        OutputError: The folder cannot be moved to its place; `target` is as it was before.
    """
    new, old = (target.with_name(f".{target.name}.{secrets.token_hex(8)}") for _ in range(2))
    try:
        write(new)
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"{target} cannot be replaced: {reason(error)}; name another folder"
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)


def discard(temporary: Path) -> None:
    """Remove a temporary file if it is there and can be removed."""
    with contextlib.suppress(OSError):
        temporary.unlink()


def is_temporary(name: str, targets: tuple[str, ...]) -> bool:
    """Return whether a file's name is that of a temporary file of one of these targets."""
    return any(name.startswith(f".{target}.") for target in targets) and name.endswith(".tmp")


def sha256_of(file: Path) -> str:
    """Return the SHA-256 digest of a file's content in hexadecimal digits.

    Raises:
        OSError: The file cannot be read.
    """
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def is_write_failure(error: Exception) -> bool:
    """Return whether an error says that the system refused to write.

    The `OSError` may be in the chain of another error, such as a `RuntimeError` of `torch.save`.
    """
    return isinstance(error, (OSError, SafetensorError)) or _system_error(error) is not None


def is_full(error: Exception) -> bool:
    """Return whether there was no room for a file."""
    return _system_error(error) in _FULL


def reason(error: Exception) -> str:
    """Say in words why a file could not be written, with the system's own message."""
    number = _system_error(error)
    known = (_FULL | _OTHER).get(number) if number is not None else None
    own = str(error).strip().splitlines() or [repr(error)]
    if known is None:
        return own[0]
    if isinstance(error, OSError) and error.strerror:
        return f"{known} ({error.strerror})"
    return f"{known} ({os.strerror(number or 0)})"


def _system_error(error: BaseException | None) -> int | None:
    """Return the number of the system's error in the chain of an error, if there is one."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if isinstance(error, SafetensorError):
            match = re.search(r"\(os error (\d+)\)", str(error))
            return int(match[1]) if match else None
        error = error.__cause__ or error.__context__
    return None


def _remove_stale(target: Path) -> None:
    """Remove old temporary files of a target, as far as that is possible."""
    oldest = time.time() - _STALE
    with contextlib.suppress(OSError), os.scandir(target.parent) as entries:
        for entry in entries:
            if is_temporary(entry.name, (target.name,)) and entry.stat().st_mtime < oldest:
                discard(Path(entry.path))

"""Locks of folders, so that two processes or threads never write to one folder at once."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import warnings
from pathlib import Path
from typing import IO

from bayes_htr._files import reason
from bayes_htr.errors import OutputError

_FAR = 2**30
"""The byte that is locked on Windows, where a locked byte cannot be read."""

_held: set[IO[bytes]] = set()
"""The lock files that this process holds."""


class FolderLock:
    """A lock of a folder, which the system releases when the process ends, however it ends.

    The lock is a file in the folder, which is removed when the lock is released. A file that a
    killed process has left locks nothing.

    Args:
        folder: The folder; it is made, with those above it, if it does not exist. A folder that
            was made and is still empty at the end is removed again.
        name: The name of the file.

    Raises:
        OutputError: Another process or thread holds the lock, or the folder cannot be written.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        self._made: list[Path] = []
        try:
            self._made = [p for p in (folder, *folder.parents) if not p.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            self._file = _open_locked(self.path)
        except OutputError:
            raise
        except OSError as error:
            self._remove_folders()
            raise OutputError(
                f"{folder} cannot be written: {reason(error)}; name another folder"
            ) from error

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._file.closed:
            return
        _held.discard(self._file)
        if sys.platform == "win32":  # there, no open file can be removed
            self._file.close()
            self._unlink()
        else:
            self._unlink()  # while it is locked, so that nobody else's file is removed
            self._file.close()
        self._remove_folders()

    def _unlink(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _remove_folders(self) -> None:
        """Remove the folders that were made, unless something was put there."""
        with contextlib.suppress(OSError):
            for folder in self._made:
                folder.rmdir()


def lock(file: IO[bytes], *, wait: bool) -> bool:
    """Lock an open file until it is closed.

    On a file system without locks, such as some network drives, nothing is locked, and a warning
    says so.

    Args:
        file: The file.
        wait: Whether to wait for the lock if somebody else holds it.

    Returns:
        `False` if somebody else holds the lock; otherwise `True`, even where nothing can be locked.
    """
    while True:
        try:
            _lock_by_system(file, wait=wait)
            return True
        except (BlockingIOError, PermissionError):
            if not wait:
                return False
        except OSError as error:
            if error.errno == errno.EDEADLK:  # on Windows, after ten seconds of waiting
                continue
            warnings.warn(
                f"{file.name} cannot be locked ({error}): do not write to its folder by two "
                "processes at once",
                stacklevel=3,
            )
            return True


def _lock_by_system(file: IO[bytes], *, wait: bool) -> None:
    if sys.platform == "win32":
        import msvcrt

        position = file.tell()
        file.seek(_FAR)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        finally:
            file.seek(position)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def _open_locked(path: Path) -> IO[bytes]:
    """Open and lock a lock file, and write into it which process holds the lock.

    Raises:
        OutputError: Somebody else holds the lock.
        OSError: The file cannot be made.
    """
    while True:
        file = path.open("a+b")
        try:  # and close the file unless it is returned
            if not lock(file, wait=False):
                file.seek(0)
                holder = file.read(200).decode(errors="replace") or "another process"
                raise OutputError(
                    f"{path.parent} is in use: {holder} is writing there; wait until it has "
                    "ended, or name another folder"
                )
            if _is_same(file, path):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
                file.flush()
                _held.add(file)
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # it was removed by who held it before: lock the one that is there now


def _is_same(file: IO[bytes], path: Path) -> bool:
    """Return whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _close_in_child() -> None:
    """Close the lock files in a forked process: the locks belong to its parent alone."""
    for file in _held:
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)

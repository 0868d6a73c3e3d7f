"""Digests of the files of a run folder, by which a damaged or foreign file is recognised.

`digests.json` lists for each file the states in which it may be: SHA-256 digests of its content, or
`null` for no file. Before a file is replaced, it is written with the digests of the old and the new
content. A process that is killed in between therefore leaves files that are recognised.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from bayes_htr._files import Writer, discard, publish, sha256_of, stage
from bayes_htr.errors import CheckpointError

DIGESTS = "digests.json"
_FORMAT = 1
_ADVICE = (
    "restore it from a copy, or start the run anew in another folder (to read the folder without "
    f"this check, delete {DIGESTS})"
)

State: TypeAlias = "str | None"
"""The digest of a file's content, or `None` for no file."""


class Digests:
    """The digests of the files of one folder.

    Args:
        folder: The folder. One that an earlier version has written has no digests, and its files
            are not checked before they are written again.

    Attributes:
        path: The file of the digests.
        states: The states by name in which this object has left the files.
        writing: The file that was written last, or that could not be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / DIGESTS
        self.states: dict[str, list[State]] = {}
        self.writing = self.path
        self._is_read = False

    def check(self, name: str) -> None:
        """Require a file to be in one of the states in which the run has left it.

        Raises:
            CheckpointError: The file, or the file of digests, is damaged, foreign or missing.
            OSError: The file cannot be read.
        """
        allowed = self.read().get(name)
        while allowed is not None:
            state = state_of(self.path.with_name(name))
            if state in allowed:
                return
            before, allowed = allowed, self.read().get(name)
            if allowed == before:  # and no other process has replaced the file meanwhile
                raise CheckpointError(_difference(self.path.with_name(name), state, before))

    def read(self) -> dict[str, list[State]]:
        """Read the states by name; without the file there are none.

        Raises:
            CheckpointError: The file is damaged or foreign.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.path} cannot be read: {error}") from error
        try:
            data = json.loads(text)
            files: dict[str, list[State]] = data["files"]
            if data["format"] != _FORMAT or data["sha256"] != _digest_of(files):
                raise ValueError("its own digest differs")
            if not all(isinstance(states, list) for states in files.values()):
                raise ValueError("it has no lists of digests")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"{self.path} is damaged ({error}), so that the files beside it cannot be "
                "checked; restore it from a copy, or delete it to read them unchecked"
            ) from error
        return files

    def replace(self, files: Mapping[str, Writer | None], *, settle: bool = True) -> None:
        """Replace files, or remove those without a writer, together with their digests.

        A process that is killed meanwhile leaves each file as it was or as it is to be.

        Args:
            files: The functions that write the content of each file, by name, in the order of
                replacement.
            settle: Whether the digests afterwards allow only the new content. Otherwise they allow
                both contents until the next replacement, which saves a write.

        Raises:
            OSError: A file cannot be written; the writers may raise other errors. All files are
                unchanged, unless it is the renaming that failed.
        """
        if not self._is_read:
            self.states = self.read()
            self._is_read = True
        folder = self.path.parent
        staged: dict[str, Path] = {}
        try:
            for name, write in files.items():
                self.writing = folder / name
                if write is not None:
                    staged[name] = stage(self.writing, write)
            after = {name: state_of(staged[name]) if name in staged else None for name in files}
            both = dict(self.states)
            for name, state in after.items():
                before = self.states.get(name) or [state_of(folder / name)]
                both[name] = list(dict.fromkeys([state, *before]))
            self._write(both)
            for name in files:
                self.writing = folder / name
                if name in staged:
                    publish(staged[name], self.writing)
                else:
                    self.writing.unlink(missing_ok=True)
            self.states |= {name: [state] for name, state in after.items()}
            if settle:
                self._write(self.states)
        finally:
            for temporary in staged.values():
                discard(temporary)

    def _write(self, files: Mapping[str, list[State]]) -> None:
        self.writing = self.path
        data = {"format": _FORMAT, "files": files, "sha256": _digest_of(files)}
        text = json.dumps(data, indent=1) + "\n"
        publish(stage(self.path, lambda path: path.write_text(text, encoding="utf-8")), self.path)


def state_of(file: Path) -> State:
    """Return the digest of a file, or `None` if it does not exist.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        return sha256_of(file)
    except FileNotFoundError:
        return None


def _digest_of(files: Any) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _difference(file: Path, state: State, allowed: list[State]) -> str:
    written = [digest for digest in allowed if digest is not None]
    if state is None:
        return f"{file} is missing, though the run has written it; {_ADVICE}"
    if not written:
        return f"{file} was put there by something else than this run; remove it"
    return (
        f"{file} cannot be read (its SHA-256 is {state[:12]}..., and the run wrote "
        f"{written[0][:12]}...): it was damaged or changed; {_ADVICE}"
    )

"""The study's file: a JSON line for each run and each choice, appended as it comes.

Nothing in it is ever changed. What is there with the same settings is not done again, and of
choices the first counts: what was chosen before test images were seen stays chosen. Several
processes may work on one file, of different cells at best: a line is appended under a lock, after
those that the others have appended since.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from bayes_htr.errors import CheckpointError, OutputError

FILE = "generalisation.jsonl"


class RunLog:
    """The lines of a study, read from its folder and appended to.

    Args:
        folder: The folder; made where it does not exist.

    Attributes:
        lines: All lines, in order, the first where several have the same kind and settings.

    Raises:
        OutputError: The folder cannot be made.
        CheckpointError: The file holds lines that are none of a study.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.lines: list[dict[str, Any]] = []
        self._known: dict[str, dict[str, Any]] = {}
        self._end = 0
        self._count = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                with self.path.open("rb") as file:
                    self._catch_up(file)
        except OSError as error:
            raise OutputError(f"{folder} cannot be used: {error}; name another folder") from error

    def find(self, kind: str, **settings: Any) -> dict[str, Any] | None:
        """The line of a kind with these settings."""
        return self._known.get(_key({"kind": kind, "settings": settings}))

    def get(self, kind: str, **settings: Any) -> dict[str, Any]:
        """The line that is known to be there."""
        line = self.find(kind, **settings)
        assert line is not None, f"no {kind} of {settings} before it is needed"
        return line

    def of(self, kind: str) -> list[dict[str, Any]]:
        """All lines of a kind, in order."""
        return [line for line in self.lines if line["kind"] == kind]

    def append(self, kind: str, settings: Mapping[str, Any], **rest: Any) -> dict[str, Any]:
        """Append a line, and have it on the disk before going on.

        Returns:
            The line; that of another process, if it has appended one with the same settings.

        Raises:
            OutputError: It cannot be written.
            CheckpointError: The file was changed otherwise than by appending.
        """
        text = json.dumps({"kind": kind, "settings": dict(settings), **rest}, allow_nan=False)
        line: dict[str, Any] = json.loads(text)
        try:
            with self.path.open("a+b") as file:
                _lock(file)  # until it is closed
                self._catch_up(file)
                if _key(line) not in self._known:
                    # Without what an interruption has cut short.
                    file.truncate(self._end)
                    file.write(f"{text}\n".encode())
                    file.flush()
                    os.fsync(file.fileno())
                    self._catch_up(file)
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written: {error}; make room and run the command again: it "
                "goes on with what is left"
            ) from error
        return self._known[_key(line)]

    def _catch_up(self, file: IO[bytes]) -> None:
        """Read the whole lines beyond those that are known."""
        if file.seek(0, os.SEEK_END) < self._end:
            raise CheckpointError(
                f"{self.path} is shorter than it was: only this command may change it; run it again"
            )
        file.seek(self._end)
        whole, newline, _ = file.read().rpartition(b"\n")
        for text in whole.split(b"\n") if newline else ():
            self._count += 1
            if text:
                line = self._parsed(text, self._count)
                if _key(line) not in self._known:
                    self.lines.append(line)
                    self._known[_key(line)] = line
        self._end += len(whole) + len(newline)

    def _parsed(self, text: bytes, number: int) -> dict[str, Any]:
        try:
            line = json.loads(text)
            if isinstance(line["kind"], str) and isinstance(line["settings"], dict):
                return dict(line)
        except (ValueError, KeyError, TypeError):
            pass
        raise CheckpointError(
            f"line {number} of {self.path} is none of a study: {text[:60]!r}; move the file away, "
            "or name another folder"
        )


def _key(line: Mapping[str, Any]) -> str:
    return json.dumps([line["kind"], line["settings"]], sort_keys=True)


def _lock(file: IO[bytes]) -> None:
    """Keep other processes from appending; on Windows only one process may use a folder."""
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)

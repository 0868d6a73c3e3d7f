"""The study's file: a JSON line for each run and each choice, appended as it comes.

Nothing in it is ever changed. What is there with the same settings is not done again, and of
choices the first counts: what was chosen before test images were seen stays chosen.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayes_htr.errors import CheckpointError, OutputError

FILE = "generalisation.jsonl"


class RunLog:
    """The lines of a study, read from its folder and appended to.

    Args:
        folder: The folder; made where it does not exist.

    Attributes:
        lines: All lines, in order; each has a `kind`.
        dropped: The bytes of a last line that an interruption cut short; it is left out, and
            taken off the file when the next one is written.

    Raises:
        OutputError: The folder cannot be made.
        CheckpointError: The file holds lines that are none of a study.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.dropped = 0
        self.lines: list[dict[str, Any]] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            data = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise OutputError(f"{folder} cannot be used: {error}; name another folder") from error
        whole, _, rest = data.rpartition(b"\n")
        self.dropped = len(rest)
        for number, line in enumerate(whole.splitlines(), start=1):
            if line:
                self.lines.append(self._parsed(line, number))
        self._known = {_key(line): line for line in reversed(self.lines)}

    def find(self, kind: str, **settings: Any) -> dict[str, Any] | None:
        """The first line of a kind with these settings."""
        return self._known.get(_key({"kind": kind, "settings": settings}))

    def of(self, kind: str) -> list[dict[str, Any]]:
        """All lines of a kind, in order."""
        return [line for line in self.lines if line["kind"] == kind]

    def append(self, kind: str, settings: Mapping[str, Any], **rest: Any) -> dict[str, Any]:
        """Append a line, and have it on the disk before going on.

        Raises:
            OutputError: It cannot be written.
        """
        text = json.dumps({"kind": kind, "settings": dict(settings), **rest}, allow_nan=False)
        line: dict[str, Any] = json.loads(text)
        try:
            if self.dropped:
                os.truncate(self.path, self.path.stat().st_size - self.dropped)
            with self.path.open("ab") as file:
                file.write(f"{text}\n".encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written: {error}; make room and run the command again: it "
                "goes on with what is left"
            ) from error
        self.dropped = 0
        self.lines.append(line)
        self._known.setdefault(_key(line), line)
        return line

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

"""The results of a study: a file with a JSON line for each run and each choice.

A line has a `kind`, the `settings` that identify it, and what was found. The kinds are `study` (the
options that all runs of a folder share), `machine`, `run`, and the choices that validation data
have made: `base`, `numbers` and `entrants`.

No line is ever changed. A run that is there with the same settings is not performed again, and of
choices the first one counts, so that what was chosen before test images were seen stays chosen.
Several commands may append to one file, best with different cells: a line is appended under a lock,
after the lines that the others have appended since.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import bayes_htr as htr
from bayes_htr._locks import lock
from benchmarks.common.results import write_text
from benchmarks.study.posterior_json import lines_of


class Log:
    """The lines of a study, read from its folder and appended to.

    Args:
        folder: The folder, which is made if it does not exist.
        study: The name of the study.

    Attributes:
        path: The file.
        lines: All lines in order; of lines with the same kind and settings only the first.

    Raises:
        OutputError: The folder cannot be used.
        CheckpointError: The file holds lines that no study has written.
    """

    def __init__(self, folder: Path, study: str) -> None:
        self.path = folder / f"{study}.jsonl"
        self.lines: list[dict[str, Any]] = []
        self._known: dict[str, dict[str, Any]] = {}
        self._end = 0
        self._count = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            before = folder / "posterior.json"
            if study == "posterior" and before.exists() and not self.path.exists():
                write_text(self.path, "".join(f"{json.dumps(line)}\n" for line in lines_of(before)))
        except OSError as error:
            raise htr.OutputError(
                f"{folder} cannot be used: {error}; name another folder"
            ) from error
        self.catch_up()

    def catch_up(self) -> None:
        """Read the lines that other commands have appended since the last look.

        Raises:
            OutputError: The file cannot be read.
            CheckpointError: The file was changed in another way than by appending.
        """
        try:
            if self.path.exists():
                with self.path.open("rb") as file:
                    self._catch_up(file)
        except OSError as error:
            raise htr.OutputError(
                f"{self.path} cannot be read: {error}; name another folder"
            ) from error

    def find(self, kind: str, **settings: Any) -> dict[str, Any] | None:
        """Return the line of a kind with these settings, if there is one."""
        return self._known.get(_key({"kind": kind, "settings": settings}))

    def get(self, kind: str, **settings: Any) -> dict[str, Any]:
        """Return the line of a kind with these settings, which must be there."""
        line = self.find(kind, **settings)
        assert line is not None, f"the log has no {kind} of {settings}"
        return line

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return all lines of a kind, in order."""
        return [line for line in self.lines if line["kind"] == kind]

    def append(self, kind: str, settings: Mapping[str, Any], **rest: Any) -> dict[str, Any]:
        """Append a line, and wait until it is on the disk.

        Returns:
            The line; if another process has appended one with the same settings, that one.

        Raises:
            OutputError: The line cannot be written.
            CheckpointError: The file was changed in another way than by appending.
        """
        text = json.dumps({"kind": kind, "settings": dict(settings), **rest}, allow_nan=False)
        line: dict[str, Any] = json.loads(text)
        try:
            with self.path.open("a+b") as file:
                lock(file, wait=True)  # until the file is closed
                self._catch_up(file)
                if _key(line) not in self._known:
                    # This drops a line that an interruption has cut short.
                    file.truncate(self._end)
                    file.write(f"{text}\n".encode())
                    file.flush()
                    os.fsync(file.fileno())
                    self._catch_up(file)
        except OSError as error:
            raise htr.OutputError(
                f"{self.path} cannot be written: {error}; make room and run the command again, "
                "which continues with what is left"
            ) from error
        return self._known[_key(line)]

    def take_choices(self, other: Path, cells: Mapping[str, str], methods: Iterable[str]) -> None:
        """Append what another study has chosen for some cells and methods.

        Args:
            other: The file of its log.
            cells: The names of the cells, each with that of the cell of the other study.
            methods: The names of the methods. Entrants are taken if they are among them.

        Raises:
            OutputError: The other file does not exist or cannot be read, or a line cannot be
                written.
            CheckpointError: The other file holds lines that no study has written.
        """
        if not other.is_file():
            raise htr.OutputError(f"{other} is no file; give the .jsonl file of another study")
        known = set(methods)
        for line in Log(other.parent, other.stem).lines:
            line = dict(line)
            kind, settings = line.pop("kind"), line.pop("settings")
            if kind not in ("base", "numbers", "entrants"):
                continue
            named = {settings["method"]} if kind == "numbers" else set()
            named |= set(line.get("entrants", {}).values())
            for cell, source in cells.items():
                if source == settings["cell"] and named <= known:
                    self.append(kind, {**settings, "cell": cell}, **line)

    def _catch_up(self, file: IO[bytes]) -> None:
        """Read the complete lines that were appended since the last look."""
        if file.seek(0, os.SEEK_END) < self._end:
            raise htr.CheckpointError(
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
        raise htr.CheckpointError(
            f"line {number} of {self.path} is not a line of a study: {text[:60]!r}; move the file "
            "away, or name another folder"
        )


def _key(line: Mapping[str, Any]) -> str:
    return json.dumps([line["kind"], line["settings"]], sort_keys=True)

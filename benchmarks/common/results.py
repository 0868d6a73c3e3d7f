"""The results of a benchmark in a JSON file, written as soon as a part is measured.

A file holds `cells` by name (`mlp/frechet`), each with its parts (`cost`, `quality`, ...), and each
part its settings, its result, and the number of the run in `runs` that measured it: machine facts,
date and command line. A part that is there with the same settings, from a like machine, is not
measured again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bayes_htr._files import atomic_write
from bayes_htr.errors import CheckpointError, OutputError
from benchmarks.common.machine import COMPARABLE

_FORMAT = 1


class Results:
    """The results of one benchmark in one folder.

    Args:
        folder: The folder; made where it does not exist.
        benchmark: The benchmark's name, and the file's.
        machine: Facts of the machine that measures now.

    Raises:
        OutputError: The folder cannot be written.
        CheckpointError: The file is there and is not one of this benchmark's results.
    """

    def __init__(self, folder: Path, benchmark: str, machine: Mapping[str, Any]) -> None:
        self.folder = folder
        self.file = folder / f"{benchmark}.json"
        self._machine = dict(machine)
        self._run: int | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder} cannot be made: {error}; name another folder") from error
        self._data = self._read(benchmark)

    @property
    def runs(self) -> list[dict[str, Any]]:
        """Facts of every run that measured something."""
        return self._data["runs"]

    @property
    def cells(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Parts by name, by cell."""
        return self._data["cells"]

    def result(self, cell: str, part: str) -> dict[str, Any] | None:
        """What was measured, if it was."""
        found = self.cells.get(cell, {}).get(part)
        return None if found is None else found["result"]

    def has(self, cell: str, part: str, settings: Mapping[str, Any]) -> bool:
        """Whether a part is there with these settings, from a machine like this one."""
        found = self.cells.get(cell, {}).get(part)
        if found is None or found["settings"] != _plain(settings):
            return False
        there = self.runs[found["run"]]
        return all(there.get(fact) == self._machine.get(fact) for fact in COMPARABLE)

    def put(
        self, cell: str, part: str, settings: Mapping[str, Any], result: Mapping[str, Any]
    ) -> None:
        """Add or replace a part, and write the file.

        Raises:
            OutputError: It cannot be written.
        """
        if self._run is None:
            self.runs.append(self._machine)
            self._run = len(self.runs) - 1
        record = {"run": self._run, "settings": _plain(settings), "result": _plain(result)}
        self.cells.setdefault(cell, {})[part] = record
        self.write(self.file.name, json.dumps(self._data, indent=2, allow_nan=False) + "\n")

    def write(self, name: str, text: str) -> Path:
        """Write a text file into the folder, and return where it is.

        Raises:
            OutputError: It cannot be written.
        """
        return write_text(self.folder / name, text)

    def _read(self, benchmark: str) -> dict[str, Any]:
        if not self.file.exists():
            return {"format": _FORMAT, "benchmark": benchmark, "runs": [], "cells": {}}
        try:
            data = json.loads(self.file.read_text(encoding="utf-8"))
            known = (data["format"], data["benchmark"]) == (_FORMAT, benchmark)
            for parts in data["cells"].values():
                for part in parts.values():
                    known &= {"settings", "result"} <= part.keys()
                    known &= isinstance(data["runs"][part["run"]], dict)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise CheckpointError(
                f"{self.file} cannot be read ({error!r}); move it away, or name another folder"
            ) from error
        if not known:
            raise CheckpointError(
                f"{self.file} does not hold results of the benchmark {benchmark}; move it away, or "
                "name another folder"
            )
        return data


def write_text(path: Path, text: str) -> Path:
    """Write a text file aside, rename it, and return where it is.

    Raises:
        OutputError: It cannot be written.
    """
    return write_file(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def write_file(path: Path, write: Callable[[Path], Any]) -> Path:
    """The same for a file that `write` makes.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        atomic_write(path, write)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error}; make room, or name another folder"
        ) from error
    return path


def _plain(data: Mapping[str, Any]) -> Any:
    """Data as it comes back from the file."""
    return json.loads(json.dumps(dict(data)))

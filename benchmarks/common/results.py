"""The measurements of a benchmark in a JSON file, written as soon as each has been made.

A file holds `cells` by name (`mlp/frechet`), each with its parts (`cost`, `quality`, ...), and each
part its settings, its result, and the number of the run in `runs` that measured it: facts about the
machine, the date and the command. A part that is there with the same settings, from a machine like
this one, is not measured again.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import bayes_htr as htr

_FORMAT = 1
_PATHS = ("--data-dir", "--out")
_COMPARABLE = ("cpu", "gpu", "cores", "threads", "torch", "bayes_htr")
"""The facts about machines that must agree if results are shown in one table."""


class Results:
    """The results of one benchmark in one folder.

    Args:
        folder: The folder, which is made if it does not exist.
        benchmark: The name of the benchmark and of its file.
        machine: Facts about the machine that measures now.

    Attributes:
        folder: The folder.
        file: The JSON file.

    Raises:
        OutputError: The folder cannot be written.
        CheckpointError: The file does not hold results of this benchmark.
    """

    def __init__(self, folder: Path, benchmark: str, machine: Mapping[str, Any]) -> None:
        self.folder = folder
        self.file = folder / f"{benchmark}.json"
        self._machine = dict(machine)
        self._run: int | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise htr.OutputError(
                f"{folder} cannot be made: {error}; name another folder"
            ) from error
        self._data = self._read(benchmark)

    @property
    def runs(self) -> list[dict[str, Any]]:
        """Facts about every run that measured something."""
        return self._data["runs"]

    @property
    def cells(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Parts by name, by cell."""
        return self._data["cells"]

    def result(self, cell: str, part: str) -> dict[str, Any] | None:
        """Return what was measured, or `None`."""
        found = self.cells.get(cell, {}).get(part)
        return None if found is None else found["result"]

    def has(self, cell: str, part: str, settings: Mapping[str, Any]) -> bool:
        """Return whether a part is there with these settings, from a machine like this one."""
        found = self.cells.get(cell, {}).get(part)
        if found is None or found["settings"] != _plain(settings):
            return False
        there = self.runs[found["run"]]
        return all(there.get(fact) == self._machine.get(fact) for fact in _COMPARABLE)

    def put(
        self, cell: str, part: str, settings: Mapping[str, Any], result: Mapping[str, Any]
    ) -> None:
        """Add or replace a part, and write the file.

        Raises:
            OutputError: The file cannot be written.
        """
        if self._run is None:
            self.runs.append(self._machine)
            self._run = len(self.runs) - 1
        record = {"run": self._run, "settings": _plain(settings), "result": _plain(result)}
        self.cells.setdefault(cell, {})[part] = record
        write_text(self.file, json.dumps(self._data, indent=2, allow_nan=False) + "\n")

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
            raise htr.CheckpointError(
                f"{self.file} cannot be read ({error!r}); move it away, or name another folder"
            ) from error
        if not known:
            raise htr.CheckpointError(
                f"{self.file} does not hold results of the benchmark {benchmark}; move it away, or "
                "name another folder"
            )
        return data


def _plain(data: Mapping[str, Any]) -> Any:
    """Data as they come back from the file."""
    return json.loads(json.dumps(dict(data)))


def write_text(path: Path, text: str) -> Path:
    """Write a text file completely or not at all, and return its path.

    Raises:
        OutputError: The file cannot be written.
    """
    return write_file(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def write_file(path: Path, write: Callable[[Path], Any]) -> Path:
    """Write a file that `write` makes at a given path, as `write_text` does, and return it."""
    try:
        with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            aside = Path(folder, path.name)
            write(aside)
            aside.replace(path)
    except OSError as error:
        raise htr.OutputError(
            f"{path} cannot be written: {error}; make room, or name another folder"
        ) from error
    return path


def machine_facts(device: torch.device, argv: Sequence[str]) -> dict[str, Any]:
    """Facts about the machine and the software, without names or paths, as plain data.

    Args:
        device: Where networks are trained.
        argv: The words of the command line after `python -m benchmarks`.
    """
    return {
        "cpu": _cpu(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "bayes_htr": htr.__version__,
        "date": f"{datetime.now():%Y-%m-%d}",
        "command": command_line(argv),
    }


def command_line(argv: Sequence[str]) -> str:
    """Return the command as one would type it, with `DIR` in place of every folder."""
    shown: list[str] = []
    for word in argv:
        option, _, value = word.partition("=")
        if shown and shown[-1] in _PATHS:
            shown.append("DIR")
        elif value and option in _PATHS:
            shown.append(f"{option}=DIR")
        else:
            shown.append(word)
    return " ".join(["python -m benchmarks", *shown])


def _cpu() -> str:
    """Return the model of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(models), platform.processor() or platform.machine())

"""A run folder: the configuration, a checkpoint, metrics by epoch, and the result.

Every file is written atomically: readers never see half of one, and a killed process leaves none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bayes_htr._files import atomic_write
from bayes_htr.errors import CheckpointError, OutputError

CONFIG = "config.json"
CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"
WEIGHTS = "weights.safetensors"
SPECTRA = "spectra.safetensors"
GUIDE = "guide.safetensors"
BESIDE = ("compare", "seeds")
"""Subfolders with the runs that a run is compared with, which may start before it."""

_FORMAT = 1
_MAY_DIFFER = {"format", "epochs", "version", "device", "guide"}
_OLD_DEFAULTS = {"label_smoothing": 0.0}
"""Settings of runs whose configuration was written before it named these settings."""
_FILES = (CONFIG, CHECKPOINT, METRICS, WEIGHTS, SPECTRA, GUIDE)
_LEFTOVER = re.compile(rf"\.({'|'.join(map(re.escape, _FILES))})\..*\.tmp")
"""The names of temporary files that a process leaves if it is killed while writing."""


class RunFolder:
    """The files of one run.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)

    def start(self, config: Mapping[str, Any], *, resume: bool) -> dict[str, Any] | None:
        """Start a run in the folder, or resume the one that it has.

        Args:
            config: The configuration; a run resumes only with the same, except for the number of
                epochs.
            resume: Whether to resume a run.

        Returns:
            The checkpoint from which to resume, if there is one.

        Raises:
            OutputError: The folder cannot be written, or already holds something.
            CheckpointError: The folder holds no run, another run, or a checkpoint that cannot be
                read.
        """
        checkpoint = None
        try:
            files, leftovers = self._contents()
            if files and not resume:
                raise self._not_empty()
            if files:
                checkpoint = self._checkpoint_of(config)
            self.path.mkdir(parents=True, exist_ok=True)
            for name in leftovers:
                (self.path / name).unlink(missing_ok=True)
            self.write_config(config)
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written: {error}; name another folder"
            ) from error
        return checkpoint

    def check_unused(self) -> None:
        """Require the folder to be empty, so that runs can be started in it and below it.

        Raises:
            OutputError: The folder holds something, or is a file.
        """
        if self.path.is_dir() and any(not _LEFTOVER.fullmatch(p.name) for p in self.path.iterdir()):
            raise self._not_empty()
        self._contents()

    def _contents(self) -> tuple[list[str], list[str]]:
        """List the folder, without the subfolders of other runs; separately, temporary files."""
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path} is a file; name a folder")
        names = [p.name for p in self.path.iterdir()] if self.path.is_dir() else []
        leftovers = [name for name in names if _LEFTOVER.fullmatch(name)]
        return [n for n in names if n not in (*leftovers, *BESIDE)], leftovers

    def _not_empty(self) -> OutputError:
        return OutputError(
            f"{self.path} is not empty; resume the run there (resume=True, --resume), or name "
            "another folder"
        )

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Replace the configuration."""
        self.write_json(CONFIG, {"format": _FORMAT, **config})

    def config(self) -> dict[str, Any]:
        """Read the configuration.

        Raises:
            CheckpointError: There is none, or the file is not the configuration of a run.
        """
        file = self.path / CONFIG
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CheckpointError(f"{self.path} holds no run: there is no {CONFIG}") from error
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error
        if not isinstance(config, dict) or config.get("format") != _FORMAT:
            raise CheckpointError(f"{file} is not the configuration of a bayes_htr run")
        return config

    def checkpoint(self) -> dict[str, Any]:
        """Read the state after the last finished epoch.

        Raises:
            CheckpointError: The file is truncated or foreign, or holds objects that are not plain
                data.
        """
        file = self.path / CHECKPOINT
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # with foreign bytes the unpickler may raise anything
            first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise CheckpointError(
                f"{file} cannot be read ({first}); it is truncated or not a checkpoint of this "
                "library: start the run anew in another folder"
            ) from error
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            raise CheckpointError(f"{file} is not a checkpoint of a bayes_htr run")
        return state

    def write_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint, and remove an older result."""
        plain = {"format": _FORMAT, **{k: _plain(v) for k, v in state.items()}}
        self._write(CHECKPOINT, lambda p: torch.save(plain, p))
        for name in (WEIGHTS, SPECTRA, GUIDE):
            (self.path / name).unlink(missing_ok=True)

    def write_metrics(self, history: list[dict[str, float]]) -> None:
        """Replace the metrics, one JSON object per epoch and line."""
        text = "".join(json.dumps(row) + "\n" for row in history)
        self._write(METRICS, lambda p: p.write_text(text, encoding="utf-8"))

    def metrics(self) -> list[dict[str, float]]:
        """Read the metrics by epoch; without a file the list is empty.

        Raises:
            CheckpointError: The file cannot be read.
        """
        file = self.path / METRICS
        if not file.exists():
            return []
        try:
            return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        except ValueError as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error

    def write_json(self, name: str, data: Any) -> None:
        """Write a JSON file."""
        text = json.dumps(data, indent=2) + "\n"
        self._write(name, lambda p: p.write_text(text, encoding="utf-8"))

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a safetensors file."""
        plain = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
        self._write(name, lambda p: save_file(plain, p))

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Read a safetensors file.

        Raises:
            CheckpointError: There is no such file, or it is truncated or foreign.
        """
        file = self.path / name
        if not file.exists():
            raise CheckpointError(
                f"{file} does not exist: the run has not finished; resume it, or name another "
                "folder"
            )
        try:
            return load_file(file)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error

    def _checkpoint_of(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """Read the checkpoint of a run, if the run has come that far.

        Raises:
            CheckpointError: The folder holds another run, or one with more epochs.
        """
        before = _leaves(_OLD_DEFAULTS | self.config())
        now = _leaves(json.loads(json.dumps(dict(config))))
        for key in sorted(before.keys() | now.keys()):
            if key.partition(".")[0] not in _MAY_DIFFER and before.get(key) != now.get(key):
                raise CheckpointError(
                    f"{self.path} holds another run: its {key} is {before.get(key)!r}, and this "
                    f"one's {now.get(key)!r}; resume with the same settings, or name another folder"
                )
        if not (self.path / CHECKPOINT).exists():
            return None
        checkpoint = self.checkpoint()
        done, wanted = checkpoint.get("epoch", 0), config.get("epochs", 0)
        if done > wanted:
            raise CheckpointError(
                f"the run in {self.path} has {done} epochs already, more than epochs={wanted}; "
                "ask for more, or name another folder"
            )
        return checkpoint

    def _write(self, name: str, write: Callable[[Path], Any]) -> None:
        atomic_write(self.path / name, write)


def _leaves(data: Any, path: str = "") -> dict[str, Any]:
    """Flatten nested dicts into one, whose keys are the paths to the leaves."""
    if not isinstance(data, dict) or not data:
        return {path: data}
    leaves: dict[str, Any] = {}
    if path == "priors.priors":  # the order of patterns counts, since the first match wins
        leaves["priors.priors"] = list(data)
    for key, value in data.items():
        leaves |= _leaves(value, f"{path}.{key}" if path else key)
    return leaves


def _plain(value: Any) -> Any:
    """Convert NumPy's numbers, in any nesting, to Python's; a checkpoint holds no others."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (list, tuple):
        return type(value)(_plain(v) for v in value)
    if type(value) is dict:
        return {_plain(k): _plain(v) for k, v in value.items()}
    return value

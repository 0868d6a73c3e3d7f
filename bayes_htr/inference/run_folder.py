"""A run folder: the configuration, a checkpoint, metrics by epoch, and the result.

Every file is written atomically: nobody ever finds half a file, even if a process was killed.
A digest of each file is kept beside them and checked when the file is read (`digests.py`). A run
that writes holds the folder's lock, so that no other run writes there meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bayes_htr._files import Writer, discard, is_full, is_temporary, is_write_failure, reason
from bayes_htr._locks import FolderLock
from bayes_htr.errors import CheckpointError, OutputError
from bayes_htr.inference.digests import DIGESTS, Digests
from bayes_htr.inference.same_run import require_same_run

CONFIG = "config.json"
CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"
WEIGHTS = "weights.safetensors"
SPECTRA = "spectra.safetensors"
GUIDE = "guide.safetensors"
RESULTS = "results.json"
SPECTRA_BEFORE = "spectra_before.safetensors"
PICTURES = ("spectra.png", "training.png")
TUNING = "tuning.json"
"""The trials by which the strength of a run was chosen."""
MEMBERS = "members"
"""The subfolder with the runs of the members of a mixture."""
COMMAND = "command.json"
"""The options of `bayes-htr fit`."""
BESIDE = ("compare", "seeds", MEMBERS, TUNING, COMMAND)
"""What may be in the folder before the run: subfolders with the runs that it is compared with, or
that it is made of; its trials; the options of the command."""
LOCK = ".lock"
COMPARISON_LOCK = ".comparison.lock"
"""The lock of all runs of a comparison together, in the folder of the first."""

_FORMAT = 1
_WRITTEN = (
    *(CONFIG, CHECKPOINT, METRICS, WEIGHTS, SPECTRA, GUIDE, RESULTS, SPECTRA_BEFORE, DIGESTS),
    *(TUNING, COMMAND),
    *PICTURES,
)
"""The files whose temporary versions a killed process may leave behind."""
_NO_CONTENT = (LOCK, COMPARISON_LOCK, DIGESTS, COMMAND)
"""Files that a process may leave if it is killed before it has written anything."""

_REMEDY = "resume the run there (resume=True, --resume), or name another folder"


class RunFolder:
    """The files of one run.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self._digests = Digests(self.path)
        self._lock: FolderLock | None = None
        self._saved_epoch: int | None = None

    def start(
        self, config: Mapping[str, Any], *, resume: bool, remedy: str = _REMEDY
    ) -> dict[str, Any] | None:
        """Start a run in the folder, or resume the one that it has, and lock it until `release`.

        Args:
            config: The configuration; a run resumes only if its configuration is the same, except
                for the number of epochs.
            resume: Whether to resume a run.
            remedy: The advice that the error gives if the folder is not empty.

        Returns:
            The checkpoint from which to resume, if there is one.

        Raises:
            OutputError: The folder cannot be written, already holds something, or another run
                is writing there.
            CheckpointError: The folder holds no run, another run, or files that are damaged.
        """
        checkpoint = None
        try:
            self._require_folder()
            if not resume:
                self._require_no_run(remedy)  # before a lock file is made there
            self._lock = FolderLock(self.path, LOCK)
            files, leftovers = self._contents()
            if files and not resume:
                raise self._not_empty(remedy)
            if files:
                checkpoint = self._checkpoint_of(config)
            else:
                leftovers.append(DIGESTS)
            for name in leftovers:
                (self.path / name).unlink(missing_ok=True)
            self._commit({CONFIG: self._config_writer(config)})
        except (OutputError, CheckpointError):
            self.release()
            raise
        except OSError as error:
            self.release()
            raise OutputError(
                f"{self.path} cannot be written: {reason(error)}; name another folder"
            ) from error
        self._saved_epoch = None if checkpoint is None else checkpoint.get("epoch")
        return checkpoint

    def release(self) -> None:
        """Let other runs write to the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def remove(self) -> None:
        """Remove what was written since `start` in a new folder, and release the folder."""
        for name in (*self._digests.states, DIGESTS):
            discard(self.path / name)
        self.release()

    def check_unused(self) -> None:
        """Require the folder to be empty, so that runs can be started in it and below it.

        Raises:
            OutputError: The folder holds something, or is a file.
        """
        self._require_folder()
        if self.path.is_dir() and any(
            not (is_temporary(p.name, _WRITTEN) or p.name in _NO_CONTENT)
            for p in self.path.iterdir()
        ):
            raise self._not_empty()

    def check_replaceable(self) -> None:
        """Require the folder to hold nothing but one run, which may be replaced.

        Raises:
            OutputError: The folder holds other files or runs, or another process is writing there.
        """
        self._require_folder()
        names = [p.name for p in self.path.iterdir()] if self.path.is_dir() else []
        if others := sorted(n for n in names if n not in (*_WRITTEN, *_NO_CONTENT, MEMBERS)):
            raise OutputError(
                f"{self.path} holds more than one run ({', '.join(others[:5])}), which "
                "overwrite=True would remove; name another folder"
            )
        if names:
            FolderLock(self.path, LOCK).release()

    def _require_folder(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path} is a file; name a folder")

    def _require_no_run(self, remedy: str) -> None:
        if self._contents()[0]:
            raise self._not_empty(remedy)

    def _contents(self) -> tuple[list[str], list[str]]:
        """List the files of the run, and separately the temporary files that are left over."""
        names = [p.name for p in self.path.iterdir()] if self.path.is_dir() else []
        leftovers = [name for name in names if is_temporary(name, _WRITTEN)]
        return [n for n in names if n not in (*leftovers, *BESIDE, *_NO_CONTENT)], leftovers

    def _not_empty(self, remedy: str = _REMEDY) -> OutputError:
        return OutputError(f"{self.path} is not empty; {remedy}")

    # Reading

    def config(self) -> dict[str, Any]:
        """Read the configuration.

        Raises:
            CheckpointError: There is no file, or it is not the configuration of a run.
        """
        try:
            config = self.json(CONFIG)
        except FileNotFoundError as error:
            raise CheckpointError(f"{self.path} holds no run: there is no {CONFIG}") from error
        if not isinstance(config, dict) or config.get("format") != _FORMAT:
            raise CheckpointError(
                f"{self.path / CONFIG} is not the configuration of a bayes_htr run"
            )
        return config

    def checkpoint(self) -> dict[str, Any]:
        """Read the state after the last finished epoch.

        Raises:
            CheckpointError: The file is truncated or foreign, or holds objects that are not plain
                data.
        """
        file = self._checked(CHECKPOINT)
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
        if type(state.get("epoch", 0)) is not int:
            raise CheckpointError(f"{file} is damaged: its epoch is {state['epoch']!r}")
        return state

    def metrics(self) -> list[dict[str, float]]:
        """Read the metrics by epoch; if there is no file, the list is empty.

        Raises:
            CheckpointError: The file cannot be read, or a line holds no numbers by name.
        """
        try:
            lines = self._text(METRICS).splitlines()
        except FileNotFoundError:
            return []
        file = self.path / METRICS
        try:
            rows = [json.loads(line) for line in lines]
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, dict) or not all(type(v) in (int, float) for v in row.values()):
                raise CheckpointError(
                    f"{file} cannot be read: line {number} is {str(row)[:80]!r}, and no numbers "
                    "by name"
                )
        return rows

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Read a safetensors file.

        Raises:
            CheckpointError: There is no such file, or it is truncated or foreign.
        """
        file = self._checked(name)
        try:
            return load_file(file)
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{file} does not exist: the run has not finished; resume it, or name another "
                "folder"
            ) from error
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error

    def json(self, name: str) -> Any:
        """Read a JSON file.

        Raises:
            CheckpointError: The file cannot be read.
            FileNotFoundError: There is no such file, and the run has not written one.
        """
        text = self._text(name)
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.path / name} cannot be read: {error}") from error

    def _text(self, name: str) -> str:
        file = self._checked(name)
        try:
            return file.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error

    def _checked(self, name: str) -> Path:
        """Return the path of a file after its digest was checked."""
        file = self.path / name
        try:
            self._digests.check(name)
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error
        return file

    # Writing

    def write_checkpoint(
        self, state: Mapping[str, Any], history: Sequence[Mapping[str, float]] = ()
    ) -> None:
        """Replace the checkpoint and the metrics, and remove an older result.

        Args:
            state: The state after an epoch, from which a run can be resumed.
            history: The metrics, one row per epoch.

        Raises:
            OutputError: The files cannot be written; the checkpoint that was there is unchanged.
        """
        plain = {"format": _FORMAT, **{k: _plain(v) for k, v in state.items()}}
        self._commit(
            {
                CHECKPOINT: partial(_save, plain),
                METRICS: _metrics_writer(history),
                **dict.fromkeys((WEIGHTS, SPECTRA, GUIDE)),
            },
            settle=False,  # the next checkpoint does so
        )
        self._saved_epoch = plain.get("epoch")

    def write_result(
        self,
        history: Sequence[Mapping[str, float]],
        tensors: Mapping[str, Mapping[str, Tensor]],
        config: Mapping[str, Any] | None = None,
        *,
        posterior: Any,
    ) -> None:
        """Write the result of a run.

        Args:
            history: The metrics, one row per epoch.
            tensors: The tensors by the name of their file. The last file marks the run as finished.
            config: The configuration, if it is to be replaced.
            posterior: The posterior whose tensors these are, which an error hands to the caller.

        Raises:
            OutputError: The folder cannot be written. The error has the posterior as `posterior`.
        """
        files: dict[str, Writer | None] = {METRICS: _metrics_writer(history)}
        if config is not None:
            files[CONFIG] = self._config_writer(config)
        try:
            self._commit(files | {name: _tensors_writer(t) for name, t in tensors.items()})
        except OutputError as error:
            error.posterior = posterior
            raise

    def write_json(self, name: str, data: Any) -> None:
        """Write a JSON file.

        Raises:
            OutputError: The file cannot be written.
        """
        self._commit({name: _text_writer(json.dumps(data, indent=2) + "\n")})

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a safetensors file.

        Raises:
            OutputError: The file cannot be written.
        """
        self._commit({name: _tensors_writer(tensors)})

    def _config_writer(self, config: Mapping[str, Any]) -> Writer:
        return _text_writer(json.dumps({"format": _FORMAT, **config}, indent=2) + "\n")

    def _commit(self, files: Mapping[str, Writer | None], *, settle: bool = True) -> None:
        """Replace files, or remove those without a writer; see `Digests.replace`.

        Raises:
            OutputError: The files cannot be written.
        """
        try:
            self._digests.replace(files, settle=settle)
        except Exception as error:
            if not is_write_failure(error):
                raise
            self._raise_unwritten(error)

    def _raise_unwritten(self, error: Exception) -> NoReturn:
        """Raise the error of a file that cannot be written, which says what is safe."""
        why = f"{self._digests.writing} cannot be written: {reason(error)}"
        checkpoint = self.path / CHECKPOINT
        if not self.path.is_dir():
            safe = f"{self.path} is gone, and what the run had written with it; start the run anew"
        elif checkpoint.is_file():
            of = "" if self._saved_epoch is None else f" of epoch {self._saved_epoch}"
            mend = "make room" if is_full(error) else "make the folder writable"
            safe = (
                f"the checkpoint{of}, {checkpoint}, is unharmed; {mend}, and resume the run "
                "(resume=True, --resume)"
            )
        else:
            room = "make room, or " if is_full(error) else ""
            safe = f"nothing was lost there; {room}name another folder"
        raise OutputError(f"{why}; {safe}") from error

    def _checkpoint_of(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """Read the checkpoint of a run, if the run has come that far.

        Raises:
            CheckpointError: The folder holds another run, or one with more epochs.
        """
        require_same_run(self.path, self.config(), config)
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


def _save(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint through a Python file object, whose errors name their cause."""
    with path.open("wb") as file:
        torch.save(state, file)


def _text_writer(text: str) -> Writer:
    return lambda path: path.write_text(text, encoding="utf-8")


def _metrics_writer(history: Sequence[Mapping[str, float]]) -> Writer:
    return _text_writer("".join(json.dumps(row) + "\n" for row in history))


def _tensors_writer(tensors: Mapping[str, Tensor]) -> Writer:
    plain = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
    return partial(save_file, plain)


def _plain(value: Any) -> Any:
    """Convert NumPy's numbers, in any nesting, to Python's; a checkpoint holds no others."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (list, tuple):
        return type(value)(_plain(v) for v in value)
    if type(value) is dict:
        return {_plain(k): _plain(v) for k, v in value.items()}
    return value

"""The options of `bayes-htr fit` in its run folder, for resuming a run and for predictions.

The file `command.json` has the options as plain data, with paths in full, and what was done to the
inputs. It is written before the first fit begins.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bayes_htr._files import write_output
from bayes_htr.distributed import rank, run_on_rank0
from bayes_htr.errors import CheckpointError
from bayes_htr.experiments import DATASETS, PRIORS
from bayes_htr.inference.run_folder import COMMAND, COMPARISON_LOCK

_FORMAT = 1
_NOT_KEPT = ("argv", "run", "interrupted", "out", "resume", "json", "quiet")
_MAY_DIFFER = ("epochs", "device", "threads", "data_dir")
_PATHS = ("data_dir", "init")


def write_options(folder: Path, args: argparse.Namespace, preparation: Mapping[str, Any]) -> None:
    """Write the options of a command, and what was done to its inputs, into its run folder.

    Args:
        folder: The folder.
        args: The options.
        preparation: The preparation of the inputs, as in `Dataset.preparation`.

    Raises:
        OutputError: The file cannot be written.
    """
    content = {"format": _FORMAT, "options": _plain(vars(args)), "preparation": dict(preparation)}
    text = json.dumps(content, indent=1)
    write_output(
        folder / COMMAND, lambda file: file.write_text(text, encoding="utf-8"), make_folder=True
    )


@contextmanager
def kept_options(
    folder: Path, args: argparse.Namespace, preparation: Mapping[str, Any]
) -> Iterator[None]:
    """Write the file before the first fit, and remove it again if no fit has written anything.

    Process 0 writes. The arguments and errors are those of `write_options`.
    """
    run_on_rank0(lambda: write_options(folder, args, preparation))
    try:
        yield
    finally:
        if rank() == 0 and {p.name for p in folder.iterdir()} <= {COMMAND, COMPARISON_LOCK}:
            (folder / COMMAND).unlink()


def read_options(folder: Path) -> dict[str, Any] | None:
    """Read the file of a run folder: its `options` and `preparation`; `None` if there is none.

    Raises:
        CheckpointError: The file cannot be read.
    """
    try:
        content = json.loads((folder / COMMAND).read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"format={content['format']!r}")
        return {name: dict(content[name]) for name in ("options", "preparation")}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / COMMAND} does not hold the options of bayes-htr fit "
            f"({type(error).__name__}: {error}); name another folder"
        ) from error


def resumed(args: argparse.Namespace, given: Mapping[str, Any]) -> argparse.Namespace:
    """Return the options of a command that resumes a run; options not given are the run's.

    Args:
        args: The options of the command. Its `resume` is the folder, or `True` if `out` names the
            folder.
        given: The options that the command line names.

    Returns:
        The options, with `resume` true.

    Raises:
        CheckpointError: There is no run in the folder, or its options cannot be read.
        ValueError: Two folders are named, or an option differs from that of the run.
    """
    folder = args.out if args.resume is True else args.resume
    if args.out not in (None, folder):
        raise ValueError(f"--resume {folder} and --out {args.out} are two folders; give one")
    kept = read_options(folder)
    result = argparse.Namespace(**vars(args) | {"out": folder, "resume": True})
    if kept is None:
        if args.resume is True:
            return result
        raise CheckpointError(
            f"{folder} has no {COMMAND}, so its options are not known; a run of an earlier version "
            f"goes on with --resume --out {folder} and the options that it had"
        )
    options, present = kept["options"], _plain(given)
    for name, value in present.items():
        if name in options and options[name] != value and name not in _MAY_DIFFER:
            flag = f"--{name.replace('_', '-')}"
            may = ", ".join(f"--{other.replace('_', '-')}" for other in _MAY_DIFFER)
            raise ValueError(
                f"{flag} {value}: the run in {folder} has {options[name]}. Leave {flag} out, or "
                f"name another folder by --out; only {may} may change when a run goes on"
            )
    for name, value in options.items():
        if name not in given and hasattr(result, name):
            path = name in _PATHS and value is not None
            setattr(result, name, Path(value) if path else value)
    return result


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options as plain data, with paths in full."""
    known = {"data": DATASETS, "prior": ("none", *PRIORS)}

    def plain(name: str, value: Any) -> Any:
        is_path = name in known and value not in known[name]
        if isinstance(value, Path) or is_path:
            return str(Path(value).expanduser().resolve())
        return value

    return {n: plain(n, v) for n, v in options.items() if n not in _NOT_KEPT}

"""The progress bar of a training run."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class TrainingProgress(AbstractContextManager["TrainingProgress"]):
    """A bar over epochs and batches, with the last epoch's metrics behind it, on standard error.

    Args:
        show: Whether to show it; `None` for where standard error is a terminal.
        label: What stands before the bar.
        epochs: How many epochs there are.
        done: How many are done already.
        batches: Batches per epoch.
    """

    def __init__(
        self, show: bool | None, label: str, *, epochs: int, done: int, batches: int
    ) -> None:
        shown = sys.stderr.isatty() if show is None else show
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not shown,
        )
        self._task = self._progress.add_task(
            label, total=epochs * batches, completed=done * batches, metrics=""
        )

    def __enter__(self) -> TrainingProgress:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def batch(self) -> None:
        """One batch is done."""
        self._progress.advance(self._task)

    def epoch(self, metrics: dict[str, float]) -> None:
        """One epoch is done."""
        shown = [f"loss {metrics['loss']:.4f}", f"acc {metrics['train_accuracy']:.4f}"]
        if "val_nll" in metrics:
            shown.append(f"val nll {metrics['val_nll']:.4f} acc {metrics['val_accuracy']:.4f}")
        self._progress.update(self._task, metrics="  ".join(shown))

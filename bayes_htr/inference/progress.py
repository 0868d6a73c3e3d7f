"""The progress bar of a training run."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from bayes_htr.progress_bar import ProgressBar


class TrainingProgress(ProgressBar):
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
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(),
        )
        total, completed = epochs * batches, done * batches
        super().__init__(
            columns, show, description=label, total=total, completed=completed, metrics=""
        )

    def epoch(self, metrics: dict[str, float]) -> None:
        """One epoch is done."""
        shown = [f"loss {metrics['loss']:.4f}", f"acc {metrics['train_accuracy']:.4f}"]
        if "val_nll" in metrics:
            shown.append(f"val nll {metrics['val_nll']:.4f} acc {metrics['val_accuracy']:.4f}")
        self._progress.update(self._task, metrics="  ".join(shown))

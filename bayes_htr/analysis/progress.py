"""The progress bar of an analysis, over matrices, by the work that each is."""

from __future__ import annotations

from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from bayes_htr.progress_bar import ProgressBar
from bayes_htr.visible import visible


class AnalysisProgress(ProgressBar):
    """A bar on standard error.

    Args:
        show: Whether to show it; `None` for where standard error is a terminal.
        work: All of it, in any unit.
    """

    def __init__(self, show: bool | None, work: float) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeRemainingColumn(),
        )
        super().__init__(columns, show, description="", total=work)

    def begin(self, name: str) -> None:
        """A matrix is next."""
        self._progress.update(self._task, description=visible(name))

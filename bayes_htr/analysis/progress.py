"""The progress bar of an analysis, over matrices, by the work that each is."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class AnalysisProgress(AbstractContextManager["AnalysisProgress"]):
    """A bar on standard error.

    Args:
        show: Whether to show it; `None` for where standard error is a terminal.
        work: All of it, in any unit.
    """

    def __init__(self, show: bool | None, work: float) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not (sys.stderr.isatty() if show is None else show),
        )
        self._task = self._progress.add_task("", total=work)

    def __enter__(self) -> AnalysisProgress:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def begin(self, name: str) -> None:
        """A matrix is next."""
        self._progress.update(self._task, description=name)

    def done(self, work: float) -> None:
        """So much is done."""
        self._progress.advance(self._task, work)

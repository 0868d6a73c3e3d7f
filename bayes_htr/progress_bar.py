"""The base of all progress bars. They are written to standard error if it is a terminal."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import Progress, ProgressColumn
from typing_extensions import Self


class ProgressBar(AbstractContextManager["ProgressBar"]):
    """A progress bar for one task.

    Args:
        columns: The columns that it shows.
        show: Whether to show it; by default (`None`) if standard error is a terminal.
        task: The arguments of `rich.progress.Progress.add_task`.
    """

    def __init__(self, columns: tuple[ProgressColumn, ...], show: bool | None, **task: Any) -> None:
        shown = sys.stderr.isatty() if show is None else show
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not shown)
        self._task = self._progress.add_task(**task)

    def advance(self, amount: float = 1) -> None:
        """Advance the bar by a number of steps."""
        self._progress.advance(self._task, amount)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

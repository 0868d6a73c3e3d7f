"""Measuring part after part: what is there is skipped, what is done is written at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.common.results import Results
from benchmarks.common.stopwatch import Tick


@dataclass(frozen=True)
class Part:
    """One measurement.

    Attributes:
        cell: The cell that it belongs to.
        name: Its name there.
        steps: How many steps its measurement tells of, for the progress bar.
        measure: Measures it.
        settings: All that the result depends on but the machine.
    """

    cell: str
    name: str
    steps: int
    measure: Callable[[Tick], dict[str, Any]] = field(repr=False)
    settings: dict[str, Any] = field(default_factory=dict)


def perform(parts: Sequence[Part], results: Results, console: Console) -> None:
    """Measure the parts that are not there yet.

    Args:
        parts: The parts.
        results: Where results go.
        console: Where it is told what was skipped.
    """
    missing = [p for p in parts if not results.has(p.cell, p.name, p.settings)]
    if len(missing) < len(parts):
        console.print(
            f"{len(parts) - len(missing)} of {len(parts)} parts are in {results.file.name} "
            "already, with the same settings",
            highlight=False,
        )
    with _progress() as progress:
        task = progress.add_task("", total=None)
        for number, part in enumerate(missing, start=1):
            label = f"{part.cell} {part.name} ({number} of {len(missing)})"
            progress.reset(task, total=part.steps, description=label)
            result = part.measure(lambda count: _advance(progress, task, count))
            results.put(part.cell, part.name, part.settings, result)


def _progress() -> Progress:
    """A bar on standard error that is drawn only when told to: no thread runs beside the timing."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        auto_refresh=False,
        disable=not sys.stderr.isatty(),
    )


def _advance(progress: Progress, task: Any, count: int) -> None:
    progress.advance(task, count)
    progress.refresh()

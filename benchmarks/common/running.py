"""How a benchmark is described, offered as a command, measured part by part, and shown."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bayes_htr._terminal import HelpFormatter
from bayes_htr._terminal import count as count
from bayes_htr._terminal import positive as positive
from bayes_htr._torch import usable_device as usable_device
from benchmarks.common.results import Results, machine_facts, write_text
from benchmarks.common.stopwatch import Tick
from benchmarks.common.tables import TextTable, page, part_settings

Commands = argparse._SubParsersAction  # the type of what add_subparsers returns
Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Part:
    """One measurement.

    Attributes:
        cell: The cell that it belongs to.
        name: The name of the measurement in results.
        steps: The number of steps that it reports, for the progress bar.
        measure: Makes the measurement.
        settings: Everything that the result depends on, except for the machine.
    """

    cell: str
    name: str
    steps: int
    measure: Callable[[Tick], dict[str, Any]] = field(repr=False)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark, which is one command.

    Attributes:
        name: The name of the command and of its files.
        what: What it measures; its description begins with these words.
        title: The heading of its page.
        add_options: Adds its options to a parser.
        parts: Makes its measurements from the options, in order.
        tables: Makes tables of the results that are there.
        draw: Draws them, and returns the files.
        threads: Threads of PyTorch if `--threads` is not given.
    """

    name: str
    what: str
    title: str
    add_options: Callable[[argparse.ArgumentParser], None]
    parts: Callable[[argparse.Namespace], list[Part]]
    tables: Callable[[Results], list[TextTable]]
    draw: Callable[[Results, argparse.Namespace], list[Path]] = lambda results, args: []
    threads: int = 2

    def add(self, kinds: Commands[argparse.ArgumentParser]) -> None:
        """Add its command."""
        parser = add_command(kinds, self.name, self.what, threads=self.threads)
        self.add_options(parser)
        parser.set_defaults(run=self.run)

    def run(self, args: argparse.Namespace, console: Console) -> None:
        """Measure what is missing, print the tables, and write them and the pictures."""
        device = usable_device(args.device)
        before = torch.get_num_threads()
        torch.set_num_threads(args.threads)
        try:
            results = Results(args.out, self.name, machine_facts(device, args.argv))
            perform(self.parts(args), results, console)
        finally:
            torch.set_num_threads(before)
        tables = self.tables(results)
        for table in tables:
            table.show(console)
        text = page(self.title, tables, settings=part_settings(results.cells), runs=results.runs)
        written = [results.file, write_text(results.folder / f"{self.name}.md", text)]
        try:
            written += self.draw(results, args)
        except ImportError as error:
            console.print(f"no pictures: {error}", markup=False)
        for path in written:
            console.print(f"written: {path}", markup=False, highlight=False, soft_wrap=True)


def add_command(
    kinds: Commands[argparse.ArgumentParser], name: str, what: str, *, threads: int
) -> argparse.ArgumentParser:
    """Add a command with the options that all of them have.

    Args:
        kinds: The commands to add to.
        name: The name of the command.
        what: What it measures; the description begins with these words.
        threads: Threads of PyTorch by default.
    """
    parser = kinds.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}. Results go into --out as they are measured; "
        "what is there with the same settings is not measured again.",
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", required=True, help="folder of the results")
    add("--threads", type=positive, default=threads, help="threads of PyTorch on the CPU")
    interrupted = "interrupted; the same command goes on with what is left to measure"
    parser.set_defaults(interrupted=interrupted, device="cpu")
    return parser


def from_options(kind: type[Settings], args: argparse.Namespace, **other: Any) -> Settings:
    """Return a dataclass of settings whose attributes are options of the same name.

    Args:
        kind: The dataclass.
        args: The options; attributes that are none of them keep their defaults.
        other: Values of attributes that go before.
    """
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    return kind(**{n: getattr(args, n) for n in names if hasattr(args, n)} | other)


def perform(parts: Sequence[Part], results: Results, console: Console) -> None:
    """Make the measurements that are not there yet.

    Args:
        parts: The measurements.
        results: Where results go.
        console: Where the number of skipped parts is printed.
    """
    missing = [p for p in parts if not results.has(p.cell, p.name, p.settings)]
    if len(missing) < len(parts):
        console.print(
            f"{len(parts) - len(missing)} of {len(parts)} parts are in {results.file.name} "
            "already, with the same settings",
            highlight=False,
        )
    # The bar is drawn only on request, so that no thread runs beside the timing.
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        auto_refresh=False,
        disable=not sys.stderr.isatty(),
    )
    with progress:
        task = progress.add_task("", total=None)

        def tick(count: int) -> None:
            progress.advance(task, count)
            progress.refresh()

        for number, part in enumerate(missing, start=1):
            label = f"{part.cell} {part.name} ({number} of {len(missing)})"
            progress.reset(task, total=part.steps, description=label)
            results.put(part.cell, part.name, part.settings, part.measure(tick))

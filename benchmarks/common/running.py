"""How a benchmark is run and shown, and the options that all kinds share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from rich.console import Console

from bayes_htr._terminal import HelpFormatter, positive
from bayes_htr._torch import usable_device
from benchmarks.common.machine import machine_facts
from benchmarks.common.parts import Part, perform
from benchmarks.common.results import Results
from benchmarks.common.tables import TextTable, page, part_settings

Commands = argparse._SubParsersAction  # the type of what add_subparsers returns

_INTERRUPTED = "interrupted; the same command goes on with what is left to measure"


class Benchmark(Protocol):
    """What is measured."""

    def parts(self) -> list[Part]:
        """Its parts, in order."""
        ...


@runtime_checkable
class StagedBenchmark(Protocol):
    """What is measured in stages, where later ones depend on what earlier ones have found."""

    def stages(self, results: Results) -> Iterable[list[Part]]:
        """The parts of each stage, in order."""
        ...


def add_command(
    kinds: Commands[argparse.ArgumentParser], name: str, what: str, *, threads: int = 2
) -> argparse.ArgumentParser:
    """Add a benchmark with the options that all have.

    Args:
        kinds: The kinds of benchmarks.
        name: Its name.
        what: What it measures; the description begins with it.
        threads: Of PyTorch, by default.
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
    add("--threads", type=positive, default=threads, help="of PyTorch on the CPU")
    parser.set_defaults(interrupted=_INTERRUPTED, device="cpu")
    return parser


def run_benchmark(
    name: str,
    title: str,
    benchmark: Benchmark | StagedBenchmark,
    tables: Callable[[Results], list[TextTable]],
    draw: Callable[[Results], list[Path]],
    args: argparse.Namespace,
    console: Console,
    settings: Callable[[Results], list[str]] = part_settings,
) -> None:
    """Measure what is missing, print the tables, and write them and the pictures."""
    device = usable_device(args.device)
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        results = Results(args.out, name, machine_facts(device, args.argv))
        stages: Iterable[list[Part]] = (
            benchmark.stages(results)
            if isinstance(benchmark, StagedBenchmark)
            else [benchmark.parts()]
        )
        for parts in stages:
            perform(parts, results, console)
    finally:
        torch.set_num_threads(before)
    found = tables(results)
    for table in found:
        table.show(console)
    text = page(results, title, found, settings(results))
    written = [results.file, results.write(f"{name}.md", text)]
    try:
        written += draw(results)
    except ImportError as error:
        console.print(f"no pictures: {error}", markup=False)
    for path in written:
        console.print(f"written: {path}", markup=False, highlight=False, soft_wrap=True)

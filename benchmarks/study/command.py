"""`python -m benchmarks study generalisation | posterior | report`: their options."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

import bayes_htr as htr
from benchmarks.common.results import machine_facts
from benchmarks.common.running import Commands, add_command, positive, usable_device
from benchmarks.study.cells import check_data
from benchmarks.study.log import Log
from benchmarks.study.method import ONLY_IF_NAMED
from benchmarks.study.protocol import Protocol
from benchmarks.study.report import write_report
from benchmarks.study.runner import missing_runs, run_all
from benchmarks.study.runs import Run, perform
from benchmarks.study.studies import SIZES, STUDIES, Study

_SHARED = ("tuning", "trials", "shrink", "epochs")
"""The options that the line `study` of a log always has; sizes only if they were given."""


def add_study(kinds: Commands[argparse.ArgumentParser]) -> None:
    """Add `study` with a command for each study, and `report`."""
    what = "tune methods on validation data, and compare them on test data"
    parser = kinds.add_parser("study", help=what, description=f"{what.capitalize()}.")
    commands = parser.add_subparsers(title="studies", required=True)
    for study in STUDIES.values():
        _add(commands, study)
    what = "tables and figures of a study, of the runs that are there"
    report = commands.add_parser("report", help=what, description=f"{what.capitalize()}.")
    report.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder of a study")
    report.set_defaults(run=_report, interrupted="interrupted")


def _add(commands: Commands[argparse.ArgumentParser], study: Study) -> None:
    parser = add_command(commands, study.name, study.what, threads=1)
    cell = study.cells[study.main[0]]
    add = parser.add_argument
    add("--cells", nargs="+", choices=study.cells, help="networks on data sets")
    add(
        "--methods",
        nargs="+",
        choices=study.methods,
        help="the methods; without it, all but peers and layers",
    )
    add("--data-dir", type=Path, metavar="DIR", help="folder of .npz files; without it: OpenML")
    add(
        "--choices",
        type=Path,
        metavar="FILE",
        help="log of another study, of whose cells nothing is chosen again",
    )
    add("--processes", type=positive, default=2, help="runs at a time, each with --threads")
    add(
        "--part",
        type=_part,
        default=(1, 1),
        metavar="I/N",
        help="perform the I-th of N parts of each stage, as one of an array of N jobs that share "
        "--out; start the array again when all have ended, until a job writes the report",
    )
    add("--seeds", type=positive, help=f"seeds of each chosen method; {study.seeds} if none")
    add("--trials", type=positive, help="most trials of a method; all if none")
    add(
        "--epochs",
        type=positive,
        help="epochs of every run (of a cell with few images, those of its whole data)",
    )
    add("--train", type=positive, help="most training images, instead of each cell's")
    add("--validation", type=positive, help="validation images among them, instead of each cell's")
    add("--shrink", type=positive, help="train on every so many-th of the rest only")
    add("--batch-size", type=positive, help=f"examples per step; {cell.batch_size} if none")
    add("--samples", type=positive, help=f"draws for a prediction; {cell.samples} if none")
    if cell.ood is not None:
        add("--ood", dest="ood_images", type=positive, help="most images out of distribution")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    add("--quick", action="store_true", help="a look in minutes: few methods, trials and seeds")
    parser.set_defaults(run=_study, study=study)


def _study(args: argparse.Namespace, console: Console) -> None:
    device = usable_device(args.device)
    own: Study = args.study
    chosen = _chosen(args)
    options = {name: chosen.get(name) for name in _SHARED}
    options |= {name: chosen[name] for name in SIZES if name in chosen}
    study = own.adapted(options)
    cells = list(dict.fromkeys(chosen["cells"]))
    methods = _methods(study, chosen)
    for method in methods:
        if (package := study.methods[method].package) is not None:
            package.load()  # so that a missing one is reported before any training
    check_data([study.cells[cell] for cell in cells], args.data_dir)
    log = Log(args.out, own.name)
    _hold_to(log, options)
    if args.choices is not None:
        sources = {cell: study.cells[cell].like or cell for cell in cells}
        log.take_choices(args.choices, sources, study.methods)
    protocol = Protocol(study, log, cells, methods, chosen["seeds"])
    line = log.append("machine", machine_facts(device, args.argv) | {"threads": args.threads})
    machine = log.of("machine").index(line)

    def done(run: Run, result: dict[str, Any]) -> None:
        log.append("run", run.settings(), result=result, machine=machine)

    work = partial(perform, study, data_dir=args.data_dir, device=str(device))
    part, parts = args.part
    for label, all_runs in protocol.stages():
        missing = missing_runs(log, all_runs)
        there = len(all_runs) - len(missing)
        console.print(
            f"{label}: {len(all_runs)} runs, {there} of them there already", highlight=False
        )
        runs = [run for run in all_runs[part - 1 :: parts] if run in missing]
        run_all(label, runs, work, done, processes=args.processes, threads=args.threads)
        log.catch_up()
        if parts > 1 and (others := missing_runs(log, all_runs)):
            console.print(
                f"{label}: {len(others)} runs of other parts are missing; start all parts again "
                "when they have ended",
                highlight=False,
            )
            return
    for cell in cells:
        if study.entrants and log.find("entrants", cell=cell) is None:
            console.print(
                f"{cell}: no entrants, for which methods of both families are needed before test "
                "images are seen"
            )
    write_report(log, own, console)


def _part(text: str) -> tuple[int, int]:
    """Parse the value of `--part`, such as `2/10`."""
    try:
        part, parts = (int(number) for number in text.split("/"))
    except ValueError:
        part, parts = 0, 0
    if not 1 <= part <= parts:
        raise argparse.ArgumentTypeError(f"{text!r}: give I/N, such as 2/10, with I from 1 to N")
    return part, parts


def _chosen(args: argparse.Namespace) -> dict[str, Any]:
    """Return what to run, from the options, from `--quick`, and from the study, in this order."""
    study: Study = args.study
    defaults = {
        "cells": list(study.main),
        "methods": [name for name, m in study.methods.items() if m.family not in ONLY_IF_NAMED],
        "seeds": study.seeds,
        "tuning": len(study.tuning_seeds),
        "shrink": 1,
    }
    names = (*defaults, *_SHARED, *SIZES)
    given = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    return defaults | (dict(study.quick) if args.quick else {}) | given


def _methods(study: Study, chosen: dict[str, Any]) -> list[str]:
    """Return the methods to test; the reference is among them, as all others need its choice."""
    first = [] if study.reference is None else [study.reference]
    return list(dict.fromkeys([*first, *chosen["methods"]]))


def _hold_to(log: Log, options: dict[str, Any]) -> None:
    """All runs of a folder have the same options; cells, methods and seeds may be added.

    Raises:
        CheckpointError: The folder holds runs with other options.
    """
    if not log.of("study"):
        log.append("study", options)
    there = log.of("study")[0]["settings"]
    if there != options:
        raise htr.CheckpointError(
            f"{log.path} holds a study with {there}, not {options}; name another folder, or the "
            "same options"
        )


def _report(args: argparse.Namespace, console: Console) -> None:
    logs = {name: Log(args.out, name) for name in STUDIES}
    found = [name for name, log in logs.items() if log.of("run")]
    for name in found:
        write_report(logs[name], STUDIES[name], console)
    if not found:
        raise htr.CheckpointError(
            f"{args.out} holds no runs; python -m benchmarks study generalisation --out "
            f"{args.out} makes them"
        )

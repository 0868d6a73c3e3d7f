"""`python -m benchmarks generalisation | report`: their options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from bayes_htr._terminal import positive
from bayes_htr._torch import usable_device
from bayes_htr.errors import CheckpointError
from benchmarks.common.machine import machine_facts
from benchmarks.common.running import Commands, add_command
from benchmarks.study.generalisation.cells import CELLS, MAIN, check_data
from benchmarks.study.generalisation.fits import Run
from benchmarks.study.generalisation.methods import METHODS
from benchmarks.study.generalisation.pool import Pool
from benchmarks.study.generalisation.protocol import Protocol, Settings
from benchmarks.study.generalisation.report import write_report
from benchmarks.study.generalisation.run_log import RunLog

QUICK = {
    "methods": ["none", "weight_decay", "spectral_norm", "frechet", "svi_lomax"],
    "seeds": 3,
    "tuning": 1,
    "trials": 3,
    "epochs": 8,
}
"""What `--quick` sets where an option is not given."""


def add_generalisation(kinds: Commands[argparse.ArgumentParser]) -> None:
    """Add `generalisation`."""
    what = "test scores of heavy-tailed priors and of conventional regularisation, all tuned alike"
    parser = add_command(kinds, "generalisation", what, threads=1)
    full = Settings((), ())
    add = parser.add_argument
    add("--cells", nargs="+", choices=CELLS, default=list(MAIN), help="networks on data sets")
    add("--methods", nargs="+", choices=METHODS, default=None, help="the methods; without it: all")
    add("--data-dir", type=Path, metavar="DIR", help="folder of .npz files; without it: OpenML")
    add("--processes", type=positive, default=2, help="runs at a time, each with --threads")
    add("--seeds", type=positive, default=None, help=f"of each tuned method; {full.seeds} if none")
    add("--epochs", type=positive, default=None, help="of every run, instead of each cell's")
    add("--trials", type=positive, default=None, help="of each method, at most; all if none")
    add("--shrink", type=positive, default=None, help="take every so many-th training image only")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    add(
        "--quick",
        action="store_true",
        help="a look in minutes: few methods, trials and seeds, eight epochs",
    )
    parser.set_defaults(run=_generalisation)


def add_report(kinds: Commands[argparse.ArgumentParser]) -> None:
    """Add `report`."""
    what = "tables and figures of a study of generalisation, of the runs that are there"
    parser = kinds.add_parser(
        "report", help=what, description=f"{what[0].upper()}{what[1:]}.", argument_default=None
    )
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", required=True, help="folder of the study")
    parser.set_defaults(run=_report, interrupted="interrupted")


def _settings(args: argparse.Namespace) -> Settings:
    given = {
        "cells": args.cells,
        "methods": args.methods,
        "seeds": args.seeds,
        "epochs": args.epochs,
        "trials": args.trials,
        "shrink": args.shrink,
    }
    chosen: dict[str, Any] = dict(QUICK) if args.quick else {"methods": list(METHODS)}
    chosen |= {name: value for name, value in given.items() if value is not None}
    chosen["cells"] = list(dict.fromkeys(chosen["cells"]))
    # All methods need what plain training has chosen.
    chosen["methods"] = list(dict.fromkeys(["none", *chosen["methods"]]))
    return Settings(**chosen)


def _generalisation(args: argparse.Namespace, console: Console) -> None:
    device = usable_device(args.device)
    settings = _settings(args)
    check_data(settings.cells, args.data_dir)
    log = RunLog(args.out)
    _hold_to(log, settings)
    line = log.append("machine", machine_facts(device, args.argv) | {"threads": args.threads})
    machine = log.of("machine").index(line)

    def done(run: Run, result: dict[str, Any]) -> None:
        log.append("run", run.settings(), result=result, machine=machine)

    with Pool(args.processes, args.threads, args.data_dir, str(device)) as pool:
        for stage in Protocol(settings, log).stages():
            runs = [run for run in stage.runs if log.find("run", **run.settings()) is None]
            there = len(stage.runs) - len(runs)
            console.print(
                f"{stage.label}: {len(stage.runs)} runs, {there} of them there already",
                highlight=False,
            )
            pool.work(stage.label, runs, done)
    for cell in settings.cells:
        if log.find("entrants", cell=cell) is None:
            console.print(
                f"{cell}: no entrants, for which methods of both families are needed before test "
                "images are seen"
            )
    write_report(log, console)


def _report(args: argparse.Namespace, console: Console) -> None:
    log = RunLog(args.out)
    if not log.of("run"):
        raise CheckpointError(
            f"{log.path} holds no runs; python -m benchmarks generalisation --out {args.out} "
            "makes them"
        )
    write_report(log, console)


def _hold_to(log: RunLog, settings: Settings) -> None:
    """All runs of a folder are made alike; cells, methods and seeds may be added."""
    own = {
        "tuning": settings.tuning,
        "trials": settings.trials,
        "shrink": settings.shrink,
        "epochs": settings.epochs,
    }
    if not log.of("study"):
        log.append("study", own)
    there = log.of("study")[0]["settings"]
    if there != own:
        raise CheckpointError(
            f"{log.path} holds a study with {there}, not {own}; name another folder, or the same "
            "options"
        )

"""`bayes-htr bench analyze`: its options."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from bayes_htr.benchmarks.analysis_speed import NETS, AnalysisSpeed, analysis_tables
from bayes_htr.benchmarks.running import INTERRUPTED, positive, run_benchmark

_Commands = argparse._SubParsersAction  # the type of what add_subparsers returns


def add_analyze_speed(kinds: _Commands[argparse.ArgumentParser]) -> None:
    """Add `bench analyze`."""
    parser = kinds.add_parser(
        "analyze",
        help="time of whole reports against WeightWatcher's (extra: peers)",
        description="Time of whole reports of a network against WeightWatcher's, in turns. Set "
        "OMP_NUM_THREADS for the threads of both sides' linear algebra. Results go into --out as "
        "they are measured; what is there with the same settings is not measured again.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", required=True, help="folder of the results")
    add("--nets", nargs="+", choices=NETS, default=["resnet18"], help="the networks")
    add("--repeats", type=positive, default=3, help="timings, of which the median counts")
    add("--seed", type=int, default=0, help="of the weights")
    add("--threads", type=positive, default=2, help="of PyTorch on the CPU")
    parser.set_defaults(run=_analyze, interrupted=INTERRUPTED, device="cpu")


def _analyze(args: argparse.Namespace, console: Console) -> None:
    benchmark = AnalysisSpeed(args.nets, args.repeats, args.seed)
    title = "Speed of whole reports"
    run_benchmark("analyze", title, benchmark, analysis_tables, lambda _: [], args, console)

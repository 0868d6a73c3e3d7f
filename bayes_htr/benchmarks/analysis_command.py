"""`bayes-htr bench analyze`: its options.

Set `OMP_NUM_THREADS` for the threads of both sides' linear algebra.
"""

from __future__ import annotations

import argparse

from rich.console import Console

from bayes_htr.benchmarks.analysis_speed import NETS, WORK, AnalysisSpeed, analysis_tables
from bayes_htr.benchmarks.running import Commands, add_command, run_benchmark
from bayes_htr.help_text import positive


def add_analyze_speed(kinds: Commands[argparse.ArgumentParser]) -> None:
    """Add `bench analyze`."""
    what = "time of whole reports in turns with WeightWatcher's (extra: peers)"
    parser = add_command(kinds, "analyze", what)
    add = parser.add_argument
    add("--nets", nargs="+", choices=NETS, default=["resnet18"], help="the networks")
    add("--work", nargs="+", choices=WORK, default=list(WORK), help="how much; full takes minutes")
    add("--repeats", type=positive, default=3, help="timings, of which the median counts")
    add("--seed", type=int, default=0, help="of the weights")
    parser.set_defaults(run=_analyze)


def _analyze(args: argparse.Namespace, console: Console) -> None:
    benchmark = AnalysisSpeed(args.nets, args.work, args.repeats, args.seed)
    title = "Speed of whole reports"
    run_benchmark("analyze", title, benchmark, analysis_tables, lambda _: [], args, console)

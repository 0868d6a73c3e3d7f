"""`python -m benchmarks tails | search | analyze`: their options.

For `analyze` set `OMP_NUM_THREADS` for the threads of both sides' linear algebra.
"""

from __future__ import annotations

import argparse

from rich.console import Console

from bayes_htr._terminal import positive
from benchmarks.common.running import Commands, add_command, run_benchmark
from benchmarks.tails.analysis_speed import NETS, WORK, AnalysisSpeed, analysis_tables
from benchmarks.tails.calibration import Calibration, calibration_tables
from benchmarks.tails.samples import LAWS
from benchmarks.tails.search_speed import LAWS as SPEED_LAWS
from benchmarks.tails.search_speed import SearchSpeed, speed_tables


def add_tails(kinds: Commands[argparse.ArgumentParser]) -> None:
    """Add `tails`."""
    what = "coverage of the intervals of tail fits, and their p-values, on simulated samples"
    parser = _add(kinds, "tails", what, [50, 200, 1000])
    add = parser.add_argument
    add("--laws", nargs="+", choices=LAWS, default=list(LAWS), help="sampled, for searched xmin")
    add("--samples", type=positive, default=2000, help="of each law and size")
    add("--bootstrap", type=positive, default=199, help="replicates of each sample")
    add("--alpha", type=float, default=2.5, help="the true exponent")
    add("--level", type=float, default=0.95, help="nominal, of the intervals")
    parser.set_defaults(run=_tails)


def add_search(kinds: Commands[argparse.ArgumentParser]) -> None:
    """Add `search`."""
    what = "time of the search for xmin against WeightWatcher's (extra: peers)"
    parser = _add(kinds, "search", what, [1024, 4096, 8192])
    add = parser.add_argument
    laws = list(SPEED_LAWS)
    add("--laws", nargs="+", choices=laws, default=laws, help="laws of the eigenvalues")
    add("--repeats", type=positive, default=9, help="timings, of which the fastest counts")
    parser.set_defaults(run=_search)


def add_analyze(kinds: Commands[argparse.ArgumentParser]) -> None:
    """Add `analyze`."""
    what = "time of whole reports in turns with WeightWatcher's (extra: peers)"
    parser = add_command(kinds, "analyze", what)
    add = parser.add_argument
    add("--nets", nargs="+", choices=NETS, default=["resnet18"], help="the networks")
    add("--work", nargs="+", choices=WORK, default=list(WORK), help="how much; full takes minutes")
    add("--repeats", type=positive, default=3, help="timings, of which the median counts")
    add("--seed", type=int, default=0, help="of the weights")
    parser.set_defaults(run=_analyze)


def _add(
    kinds: Commands[argparse.ArgumentParser], name: str, what: str, sizes: list[int]
) -> argparse.ArgumentParser:
    parser = add_command(kinds, name, what, threads=1)
    add = parser.add_argument
    add("--sizes", nargs="+", type=positive, default=sizes, help="values of a sample")
    add("--seed", type=int, default=0, help="of the samples")
    return parser


def _tails(args: argparse.Namespace, console: Console) -> None:
    if not 1 < args.alpha < float("inf"):
        raise ValueError(f"--alpha {args.alpha}: give an exponent above 1")
    benchmark = Calibration(
        laws=args.laws,
        sizes=args.sizes,
        samples=args.samples,
        bootstrap=args.bootstrap,
        alpha=args.alpha,
        level=args.level,
        seed=args.seed,
    )
    title = "Calibration of tail fits"
    run_benchmark("tails", title, benchmark, calibration_tables, lambda _: [], args, console)


def _search(args: argparse.Namespace, console: Console) -> None:
    benchmark = SearchSpeed(args.sizes, args.laws, args.repeats, args.seed)
    title = "Speed of the search for xmin"
    run_benchmark("search", title, benchmark, speed_tables, lambda _: [], args, console)


def _analyze(args: argparse.Namespace, console: Console) -> None:
    benchmark = AnalysisSpeed(args.nets, args.work, args.repeats, args.seed)
    title = "Speed of whole reports"
    run_benchmark("analyze", title, benchmark, analysis_tables, lambda _: [], args, console)

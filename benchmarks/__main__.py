"""`python -m benchmarks`: the command line of the benchmarks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bayes_htr.cli import run_command
from benchmarks.cost.guides import GUIDES
from benchmarks.cost.layers import GPU, GROWTH
from benchmarks.cost.overhead import OVERHEAD
from benchmarks.cost.whole_fits import FITS
from benchmarks.lora.comparison import LORA
from benchmarks.study.command import add_study
from benchmarks.tables.cross_validation import TABLES
from benchmarks.tails.calibration import TAILS
from benchmarks.tails.speed import ANALYZE, SEARCH


def main(argv: Sequence[str] | None = None) -> int:
    """Run a benchmark, and return the exit status as `run_command` does."""
    return run_command(build_parser(), argv)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure what priors and posteriors cost and buy, and how good tail fits are.",
    )
    kinds = parser.add_subparsers(title="benchmarks", required=True)
    for benchmark in (OVERHEAD, GROWTH, GPU, GUIDES, FITS, TAILS, SEARCH, ANALYZE, TABLES, LORA):
        benchmark.add(kinds)
    add_study(kinds)
    return parser


if __name__ == "__main__":
    sys.exit(main())

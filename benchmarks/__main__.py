"""`python -m benchmarks`: the command line of the benchmarks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bayes_htr.cli import run_command
from benchmarks.cost.command import add_gpu, add_growth, add_guides, add_overhead
from benchmarks.study.generalisation.command import add_generalisation, add_report
from benchmarks.study.posterior.command import add_posterior
from benchmarks.tails.command import add_analyze, add_search, add_tails


def main(argv: Sequence[str] | None = None) -> int:
    """Run a benchmark; returns the exit status, as `run_command` does."""
    return run_command(build_parser(), argv)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure what priors and posteriors cost and buy, and how good tail fits are.",
    )
    kinds = parser.add_subparsers(title="benchmarks", required=True)
    for add in (
        *(add_overhead, add_growth, add_gpu, add_guides),
        *(add_posterior, add_tails, add_search, add_analyze),
        *(add_generalisation, add_report),
    ):
        add(kinds)
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""`bayes-htr analyze`: the spectra of a file, in the terminal, as a table or a report on disk."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from rich.console import Console

from bayes_htr._terminal import visible
from bayes_htr.analysis.analyze import analyze, select_weights
from bayes_htr.analysis.report import CheckpointComparison, SpectraReport, check_shared
from bayes_htr.analysis.tables import check_suffix, import_parquet
from bayes_htr.distributed import process_group, rank
from bayes_htr.errors import OutputError
from bayes_htr.spectra.layout import Layouts, read_layouts


def run_analyze(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Analyse a file, show its spectra, write the files that the options name, and return all.

    Args:
        args: The options of `analyze` in `bayes_htr.cli`.
        console: Where the tables are shown.

    Raises:
        OutputError: A file cannot be written; also before the analysis, if its folder is missing.
        ValueError: An option is outside its range, or a file is of an unknown kind.
        DataError, CheckpointError, SpectrumError: The same errors as in `analyze` and
            `SpectraReport.compare`.
    """
    _check_outputs(args)
    _check_inputs(args)
    with process_group("cpu"):
        return _run(args, console)


def _run(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Let all processes analyse, and the first one show and write what they have found."""
    report = _analyze(args, args.path)
    other = None if args.compare is None else _analyze(args, args.compare)
    if rank() > 0:
        return report.to_dict()
    _show(report, console)
    result: SpectraReport | CheckpointComparison = report
    if other is not None:
        result = comparison = report.compare(other)
        console.print(comparison.fitting_table(console.width))
        if comparison.unmatched:
            names = visible(", ".join(comparison.unmatched))
            console.print(f"in one alone, or in another shape: {names}", markup=False)
    for path, write in ((args.out, result.write), (args.report, result.to_html)):
        if path is not None:
            written = f"written: {write(path)}"
            console.print(written, markup=False, highlight=False, soft_wrap=True)
    return result.to_dict()


def _check_outputs(args: argparse.Namespace) -> None:
    """Check before the analysis that its results can be written."""
    if args.out is not None and check_suffix(args.out) == "parquet":
        import_parquet()
    if args.report is not None and args.report.suffix not in (".html", ".htm"):
        raise ValueError(
            f"--report {args.report} ends in {args.report.suffix!r}; reports end in .html"
        )
    for option, path in (("--out", args.out), ("--report", args.report)):
        if path is None:
            continue
        if not path.parent.is_dir():
            raise OutputError(f"{option} {path}: there is no folder {path.parent}; make it first")
        if path.is_dir():
            raise OutputError(f"{option} {path} is a folder; name a file in it")
        if not os.access(path.parent, os.W_OK):
            raise OutputError(f"{option} {path}: {path.parent} may not be written to; name another")


def _check_inputs(args: argparse.Namespace) -> None:
    """Check that both networks can be read and have a matrix in common, before the work begins."""
    if args.compare is None:
        return  # the analysis itself begins with this
    keys = []
    for path in (args.path, args.compare):
        options = {name: getattr(args, name) for name in ("layers", "exclude", "min_size", "conv")}
        _, weights, _ = select_weights(path, **options, matrices=_layouts(args))
        keys.append([(w.name, *sorted(w.sides(args.conv)), w.count(args.conv)) for w in weights])
    check_shared(*keys)


def _analyze(args: argparse.Namespace, path: Path) -> SpectraReport:
    return analyze(
        path,
        layers=args.layers,
        exclude=args.exclude,
        min_size=args.min_size,
        conv=args.conv,
        level=args.level,
        bootstrap=args.bootstrap,
        randomize=args.randomize,
        farms=args.farms,
        seed=args.seed,
        matrices=_layouts(args),
        share=True,
        progress=None if rank() == 0 else False,
    )


def _layouts(args: argparse.Namespace) -> Layouts:
    return () if args.matrices is None else read_layouts(args.matrices)


def _show(report: SpectraReport, console: Console) -> None:
    console.print(report.fitting_table(console.width))
    summary = report.summary()
    if summary["power_laws"]:
        console.print(
            f"{summary['power_laws']} of {summary['matrices']} have a tail that passes for a power "
            f"law, with a median alpha of {summary['power_law_alpha_median']:.3g}",
            highlight=False,
        )
    if report.skipped:
        console.print(f"not analysed: {len(report.skipped)}", highlight=False)
        for name, why in list(report.skipped.items())[:10]:
            console.print(visible(f"  {name}: {why}"), markup=False, highlight=False)

"""`bayes-htr analyze`: the spectra of a file, in the terminal, as a table or a report on disk."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from bayes_htr._terminal import visible
from bayes_htr.analysis.analyze import analyze
from bayes_htr.analysis.report import CheckpointComparison, SpectraReport
from bayes_htr.analysis.tables import check_suffix, import_parquet
from bayes_htr.errors import OutputError

_WIDE = 110
_NARROW = ("name", "alpha", "verdict")


def run_analyze(args: argparse.Namespace, console: Console) -> None:
    """Analyse a file, show its spectra, and write the files that the options name.

    Args:
        args: The options of `analyze` in `bayes_htr.cli`.
        console: Where the tables are shown.

    Raises:
        OutputError: A file cannot be written; also before the analysis, if its folder is missing.
        ValueError: An option outside its range, or a file of an unknown kind.
        DataError, CheckpointError, SpectrumError: As `analyze` and `SpectraReport.compare`.
    """
    _check_outputs(args)
    report = _analyze(args, args.path)
    _show(report, console)
    result: SpectraReport | CheckpointComparison = report
    if args.compare is not None:
        result = comparison = report.compare(_analyze(args, args.compare))
        console.print(comparison.table())
        if comparison.unmatched:
            names = visible(", ".join(comparison.unmatched))
            console.print(f"in one alone, or in another shape: {names}", markup=False)
    for path, write in ((args.out, result.write), (args.report, result.to_html)):
        if path is not None:
            written = f"written: {write(path)}"
            console.print(written, markup=False, highlight=False, soft_wrap=True)


def _check_outputs(args: argparse.Namespace) -> None:
    """Check before the analysis that its results can be written."""
    if args.out is not None and check_suffix(args.out) == "parquet":
        import_parquet()
    if args.report is not None and args.report.suffix not in (".html", ".htm"):
        raise ValueError(
            f"--report {args.report} ends in {args.report.suffix!r}; reports end in .html"
        )
    for option, path in (("--out", args.out), ("--report", args.report)):
        if path is not None and not path.parent.is_dir():
            raise OutputError(f"{option} {path}: there is no folder {path.parent}; make it first")


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
    )


def _show(report: SpectraReport, console: Console) -> None:
    narrow = console.width < _WIDE
    console.print(report.table([c for c in _NARROW if c in report.columns] if narrow else None))
    if report.skipped:
        console.print(f"not analysed: {len(report.skipped)}", highlight=False)
        for name, why in list(report.skipped.items())[:10]:
            console.print(visible(f"  {name}: {why}"), markup=False, highlight=False)

"""Does the default law hold up beyond the digits? Validation scores of laws in all cells.

The Lomax law of the default posterior was chosen on the digits (`benchmarks/digits_prior.py`). This
script compares it with the laws of the studies, at the strengths that the studies chose most often,
and with the law of `htr.HTRClassifier`, in all cells of the study of mixtures. All laws have the
learning rate and the initial spread of the default method. Networks, splits and
epochs are those of the trials of that study, in whose results the script reads how each cell
trains. `--cells` also takes the cells of the study of robustness that have few training images. No
test image is seen. A fit that diverges counts as a guess. The runs are kept in `DIR/laws.jsonl`,
and a run that is there is not made again. On two cores the script takes about twenty minutes.

Run: `python -m benchmarks.default_law --data-dir DATA --out DIR`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

import bayes_htr as htr
from benchmarks.common.paired import student_difference
from benchmarks.common.running import positive
from benchmarks.common.tables import NOTHING, TextTable
from benchmarks.study import cells as study_cells
from benchmarks.study.cells import Base, check_data
from benchmarks.study.log import Log
from benchmarks.study.methods import MIXTURES, with_normal_biases
from benchmarks.study.outcomes import chance
from benchmarks.study.runner import missing_runs, run_all
from benchmarks.study.runs import Run, perform
from benchmarks.study.studies import STUDIES

RESULTS = Path(__file__).parent / "results" / "mixtures" / "mixtures.jsonl"
SCORES = {"brier": "Brier", "nll": "NLL", "accuracy": "accuracy"}

FEW = {name: cell for name, cell in study_cells.ROBUSTNESS.items() if cell.same_updates}
"""The cells with few training images."""
CELLS = study_cells.MIXTURES | FEW

_LAWS = {
    "Lomax(2.5, 0.05)": (htr.Lomax(2.5, 0.05), (1.0, 3.0)),
    "Lomax(2, 1)": (htr.Lomax(2.0, 1.0), (1.0, 3.0)),
    "Lomax(2.5, 5)": (htr.Lomax(2.5, 5.0), (2.0, 8.0)),
    "Exponential(1)": (htr.Exponential(1.0), (1.0, 3.0)),
}
DEFAULT = "Lomax(2.5, 0.05), 1"
"""The law and the strength of the default posterior."""

METHODS = {
    f"{name}, {strength:g}": replace(
        MIXTURES["svi_lomax"],
        label=f"{name}, {strength:g}",
        trials=({"strength": strength, "lr": 6e-3, "init_scale": 0.3},),
        priors=partial(with_normal_biases, htr.ESD(law)),
    )
    for name, (law, strengths) in _LAWS.items()
    for strength in strengths
}
"""The laws at their strengths, each with the rate of the default."""


def score(cells: Sequence[str], data_dir: Path | None, log: Log, processes: int) -> list[Run]:
    """Score every law in all cells with the seeds of trials.

    Args:
        cells: The names of the cells.
        data_dir: The folder of the data sets.
        log: Where results are kept.
        processes: Runs at a time, each with one thread.

    Returns:
        The runs, whose results are in the log.
    """
    study = replace(STUDIES["mixtures"], methods=METHODS, cells=CELLS)
    check_data([study.cells[cell] for cell in cells], data_dir)
    bases = Log(RESULTS.parent, RESULTS.stem)
    runs = [
        Run(
            cell,
            name,
            method.trials[0],
            Base(**bases.get("base", cell=CELLS[cell].like or cell)["base"]),
            seed,
            ends={},
            tested=False,
        )
        for cell in cells
        for name, method in METHODS.items()
        for seed in study.tuning_seeds
    ]

    def done(run: Run, result: dict[str, Any]) -> None:
        log.append("run", run.settings(), result=result)

    work = partial(perform, study, data_dir=data_dir, device="cpu")
    run_all("laws", missing_runs(log, runs), work, done, processes=processes, threads=1)
    return runs


def tables(runs: Sequence[Run], log: Log) -> list[TextTable]:
    """Return a table for each score: its mean in each cell under each law, and differences.

    The last column is the mean of paired differences from the default over cells and seeds, with
    Student's 95 % interval.

    Args:
        runs: The runs.
        log: The log with the results of these runs.
    """
    cells = list(dict.fromkeys(run.cell for run in runs))
    found = {}
    for run in runs:
        result = log.get("run", **run.settings())["result"]
        guess = chance(CELLS[run.cell].classes)
        found[run.method, run.cell, run.seed] = result.get("validation", guess)
    seeds = sorted({run.seed for run in runs})
    pairs = [(cell, seed) for cell in cells for seed in seeds]
    shown = []
    for score_name, heading in SCORES.items():
        rows = []
        default = [found[DEFAULT, cell, seed][score_name] for cell, seed in pairs]
        for method in METHODS:
            values = [found[method, cell, seed][score_name] for cell, seed in pairs]
            means = [
                fmean(found[method, cell, seed][score_name] for seed in seeds) for cell in cells
            ]
            d = student_difference(values, default)
            difference = f"{d.mean:+.4f} ({d.low:+.4f} to {d.high:+.4f})"
            last = NOTHING if method == DEFAULT else difference
            rows.append([method, *(f"{mean:.4f}" for mean in means), last])
        shown.append(TextTable(heading, ("law, strength", *cells, "minus the default"), rows))
    return shown


def main(argv: Sequence[str] | None = None) -> None:
    """Score every law in all cells, and print the tables.

    Args:
        argv: The arguments of the command line, without the name of the program.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--data-dir", type=Path, metavar="DIR", help="folder of .npz files; without it: OpenML")
    add("--out", type=Path, metavar="DIR", required=True, help="folder of the runs")
    every = list(study_cells.MIXTURES)
    add("--cells", nargs="+", choices=CELLS, default=every, help="networks on data sets")
    add("--processes", type=positive, default=2, help="runs at a time, each with one thread")
    args = parser.parse_args(argv)
    log = Log(args.out, "laws")
    console = Console()
    for table in tables(score(args.cells, args.data_dir, log, args.processes), log):
        table.show(console)


if __name__ == "__main__":
    main()

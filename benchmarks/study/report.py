"""The report of a study: tables in the terminal, as Markdown, LaTeX and CSV, and figures."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.common.results import write_file, write_text
from benchmarks.common.tables import TextTable, page
from benchmarks.study.generalisation_tables import generalisation_tables
from benchmarks.study.log import Log
from benchmarks.study.mixture_tables import mixture_tables
from benchmarks.study.outcomes import Outcomes
from benchmarks.study.pictures import draw_generalisation, draw_mixtures, draw_posterior
from benchmarks.study.posterior_tables import posterior_settings, posterior_tables
from benchmarks.study.robustness import draw_robustness, robustness_tables
from benchmarks.study.runs import COLUMNS
from benchmarks.study.studies import Study

_HOW_TO_READ = """\
Differences are the first method minus the second, paired by seed: both train on the same split from
the same initial weights. Intervals of 95 % and p-values (two-sided sign-flip tests) account for
other seeds on these training and test images. The interval "over seeds and images" accounts for
other test images too. "Holm over cells" corrects one comparison for the number of cells, and "Holm
over all" corrects all comparisons of the table. Accuracy is "ahead" or "behind" if p after Holm
over cells is below 0.05 and the interval over seeds and images has one sign. It is so "on these
images" if only p is below 0.05. With n seeds no p-value is below 2^(1 - n), so that three seeds
cannot decide. A run in which numbers were not finite counts as chance.
"""


@dataclass(frozen=True)
class _Shown:
    """What the report of a study shows."""

    tables: Callable[[Outcomes], list[TextTable]]
    draw: Callable[[Outcomes, Path], list[Path]]
    settings: Callable[[Outcomes], list[str]] = lambda _: []
    introduction: str = ""


_SHOWN = {
    "generalisation": _Shown(generalisation_tables, draw_generalisation, introduction=_HOW_TO_READ),
    "mixtures": _Shown(mixture_tables, draw_mixtures),
    "robustness": _Shown(robustness_tables, draw_robustness),
    "posterior": _Shown(posterior_tables, draw_posterior, posterior_settings),
}


def write_report(log: Log, study: Study, console: Console) -> None:
    """Print the tables, and write them as Markdown and LaTeX, figures, and runs as CSV.

    Args:
        log: The results, in whose folder the report is written.
        study: The description of the study.
        console: Where tables are printed.

    Raises:
        OutputError: A file cannot be written.
    """
    folder, shown, outcomes = log.path.parent, _SHOWN[study.name], Outcomes(log, study)
    tables = shown.tables(outcomes)
    for table in tables:
        table.show(console)
    written = write_csv(outcomes, folder)
    try:
        pictures = shown.draw(outcomes, folder)
    except ImportError as error:
        console.print(f"no pictures: {error}", markup=False)
        pictures = []
    markdown = page(
        study.heading,
        tables,
        introduction=shown.introduction,
        pictures=pictures,
        settings=shown.settings(outcomes),
        runs=[line["settings"] for line in log.of("machine")],
    )
    latex = "\n".join(["% Packages: booktabs, adjustbox.", *(t.latex() for t in tables)])
    written.append(write_text(folder / f"{study.name}.md", markdown))
    written.append(write_text(folder / f"{study.name}.tex", latex))
    for path in [*written, *pictures]:
        console.print(f"written: {path}", markup=False, highlight=False, soft_wrap=True)


def write_csv(outcomes: Outcomes, folder: Path) -> list[Path]:
    """Write `runs.csv`, a row for each tested run, and `layers.csv`, one for each of its matrices.

    Scores of a run that diverged are empty.

    Raises:
        OutputError: A file cannot be written.
    """
    scores = ("accuracy", "nll", "brier", "ece")
    run = ("cell", "method", "seed")
    columns = (*run, "family", "numbers", "entrant", "diverged", *scores, "seconds")
    runs = (
        [
            *(cell, method, seed, outcomes.study.methods[method].family),
            json.dumps(outcomes.chosen(cell, method)),
            int(method in outcomes.entrants(cell).values()),
            int("diverged" in result),
            *(result["test"][score] if "test" in result else "" for score in scores),
            result.get("seconds", ""),
        ]
        for cell, method, seed, result in _tested(outcomes)
    )
    layers = (
        [cell, method, seed, name, *(matrix[column] for column in COLUMNS)]
        for cell, method, seed, result in _tested(outcomes)
        for name, matrix in result.get("matrices", {}).items()
    )
    return [
        _write(folder / "runs.csv", columns, runs),
        _write(folder / "layers.csv", (*run, "matrix", *COLUMNS), layers),
    ]


def _tested(outcomes: Outcomes) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    for cell in outcomes.cells:
        for method in outcomes.methods(cell):
            for seed, result in outcomes.tested(cell, method).items():
                yield cell, method, seed, result


def _write(path: Path, columns: Iterable[str], rows: Iterable[list[Any]]) -> Path:
    def write(aside: Path) -> None:
        with aside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(rows)

    return write_file(path, write)

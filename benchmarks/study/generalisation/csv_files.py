"""The tested runs of a study as CSV, for statistics and figures of one's own."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common.results import write_file
from benchmarks.study.generalisation.fits import COLUMNS
from benchmarks.study.generalisation.methods import METHODS
from benchmarks.study.generalisation.outcomes import CHANCE, Outcomes

_SCORES = tuple(CHANCE)


def write_csv(outcomes: Outcomes, folder: Path) -> list[Path]:
    """Write `runs.csv`, a row for each tested run, and `layers.csv`, one for each of its matrices.

    Scores of a run that diverged are empty.

    Raises:
        OutputError: They cannot be written.
    """
    run = ("cell", "method", "seed")
    runs = (*run, "family", "numbers", "entrant", "diverged", *_SCORES, "seconds")
    return [
        _write(folder / "runs.csv", runs, _runs(outcomes)),
        _write(folder / "layers.csv", (*run, "matrix", *COLUMNS), _layers(outcomes)),
    ]


def _runs(outcomes: Outcomes) -> Iterator[list[Any]]:
    for cell, method, seed, result in _tested(outcomes):
        diverged = "diverged" in result
        yield [
            *(cell, method, seed, METHODS[method].family),
            json.dumps(outcomes.chosen(cell, method)["numbers"]),
            int(method in outcomes.entrants(cell).values()),
            int(diverged),
            *("" if diverged else result["test"][score] for score in _SCORES),
            result.get("seconds", ""),
        ]


def _layers(outcomes: Outcomes) -> Iterator[list[Any]]:
    for cell, method, seed, result in _tested(outcomes):
        for name, matrix in result.get("matrices", {}).items():
            yield [cell, method, seed, name, *(matrix[column] for column in COLUMNS)]


def _tested(outcomes: Outcomes) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    for cell in outcomes.cells:
        for method in outcomes.methods(cell):
            for seed, result in outcomes.tested(cell, method).items():
                yield cell, method, seed, result


def _write(path: Path, columns: tuple[str, ...], rows: Iterator[list[Any]]) -> Path:
    def write(aside: Path) -> None:
        with aside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(rows)

    return write_file(path, write)

"""What the runs of a study say, read from its log.

A tested run in which numbers were not finite counts as a guess, see `chance`: a method that
diverges with some seeds must not look better because they are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.common.paired import Difference, difference_by_seed, difference_over_images, holm
from benchmarks.study.log import Log
from benchmarks.study.method import Numbers
from benchmarks.study.runs import unpacked
from benchmarks.study.studies import Study

HEAVY, CONVENTIONAL = "heavy-tailed", "conventional"
OPPONENTS = (CONVENTIONAL, "weight_decay", "spectral_norm")
"""What the heavy-tailed entrant is compared with: the conventional entrant, and two by name."""
LEVEL = 0.05
"""The level of the confirmatory tests."""


def chance(classes: int) -> dict[str, float]:
    """The scores of a run that diverged: those of a guess, with the calibration of a sure guess."""
    return {
        "accuracy": 1 / classes,
        "nll": math.log(classes),
        "brier": 1 - 1 / classes,
        "ece": 1 - 1 / classes,
        "ood_auroc_entropy": 0.5,
    }


@dataclass(frozen=True)
class Confirmed:
    """One confirmatory comparison, of the heavy-tailed entrant with an opponent.

    Attributes:
        cell: The cell.
        opponent: One of `OPPONENTS`.
        first: The heavy-tailed entrant.
        second: The method that the opponent is.
        accuracy: First minus second.
        over_images: The same with an interval over seeds and test images.
        nll: First minus second.
        ece: First minus second.
        adjusted: The p-value of accuracy after Holm's correction over cells.
        adjusted_all: The same over all distinct comparisons, of cells and opponents.
    """

    cell: str
    opponent: str
    first: str
    second: str
    accuracy: Difference
    over_images: Difference
    nll: Difference | None
    ece: Difference | None
    adjusted: float = math.nan
    adjusted_all: float = math.nan

    @property
    def verdict(self) -> str:
        """The outcome in words, by the p-value over cells and the interval over images."""
        if self.adjusted >= LEVEL:
            return "undecided"
        side, clear = (
            ("ahead", self.over_images.low > 0)
            if self.accuracy.mean > 0
            else ("behind", self.over_images.high < 0)
        )
        return side if clear else f"{side} on these images"


class Outcomes:
    """The tested runs and the trials of a study.

    Args:
        log: The results of the study.
        study: The description of the study, for the order of cells and methods.
    """

    def __init__(self, log: Log, study: Study) -> None:
        self.log, self.study = log, study
        self._tested: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
        self._trials: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
        for line in log.of("run"):
            s = line["settings"]
            if s["tested"]:
                self._tested.setdefault((s["cell"], s["method"]), {})[s["seed"]] = line["result"]
            else:
                self._trials.setdefault(s["cell"], []).append((s, line["result"]))

    # What is there

    @property
    def cells(self) -> list[str]:
        """The cells with tested runs."""
        return [c for c in self.study.cells if any(cell == c for cell, _ in self._tested)]

    @property
    def cells_with_base(self) -> list[str]:
        """The cells for which it is known how methods train."""
        return [c for c in self.study.cells if self.log.find("base", cell=c) is not None]

    def methods(self, cell: str) -> list[str]:
        """Return the methods tested in a cell."""
        return [m for m in self.study.methods if (cell, m) in self._tested]

    def label(self, method: str) -> str:
        """Return the name of a method in tables."""
        return self.study.methods[method].label

    def images(self, cell: str) -> int:
        """Return the number of test images of a cell; 0 if every run diverged."""
        found = (r["images"] for m in self.methods(cell) for r in self.results(cell, m).values())
        return next(found, 0)

    # Choices

    def base(self, cell: str) -> dict[str, Any]:
        """Return how the methods of a cell train."""
        return dict(self.log.get("base", cell=cell)["base"])

    def chosen(self, cell: str, method: str) -> Numbers:
        """Return the chosen numbers of a method."""
        numbers: Numbers = self.log.get("numbers", cell=cell, method=method)["numbers"]
        return numbers

    def entrants(self, cell: str) -> Mapping[str, str]:
        """Return the entrants of a cell by family; empty if they have not been named."""
        line = self.log.find("entrants", cell=cell)
        return {} if line is None else line["entrants"]

    def shown(self, cell: str) -> list[str]:
        """The methods shown in more detail: plain training, the opponents, and the entrants."""
        return list(dict.fromkeys(["none", *OPPONENTS[1:], *self.entrants(cell).values()]))

    # Trials

    def trials(self, cell: str, method: str | None = None) -> list[dict[str, Any]]:
        """Return the results of the trials of a cell, or of one method there."""
        return [r for s, r in self._trials.get(cell, ()) if method in (None, s["method"])]

    def tried(self, cell: str, method: str) -> list[Numbers]:
        """Return the numbers that were tried, which may differ from those of the method today."""
        base, found = self.base(cell), self._trials.get(cell, ())
        own = [s["numbers"] for s, _ in found if (s["method"], s["base"]) == (method, base)]
        return [numbers for i, numbers in enumerate(own) if numbers not in own[:i]]

    def validated(
        self, cell: str, method: str, score: str, numbers: Mapping[str, float]
    ) -> float | None:
        """Return a score of validation images in a trial, averaged over splits.

        Returns:
            The score, with that of chance for a run that diverged; `None` without such a trial.
        """
        own = (method, dict(numbers), self.base(cell))
        found = [
            self._chance(cell)[score] if "diverged" in r else r["validation"][score]
            for s, r in self._trials.get(cell, ())
            if (s["method"], s["numbers"], s["base"]) == own
        ]
        return fmean(found) if found else None

    # Tested runs

    def tested(self, cell: str, method: str) -> dict[int, dict[str, Any]]:
        """Return the results of tested runs by seed."""
        return dict(sorted(self._tested.get((cell, method), {}).items()))

    def results(self, cell: str, method: str) -> dict[int, dict[str, Any]]:
        """Return the results of tested runs by seed, without those that diverged."""
        return {seed: r for seed, r in self.tested(cell, method).items() if "diverged" not in r}

    def diverged(self, cell: str, method: str) -> int:
        """Return the number of tested runs that diverged."""
        return len(self.tested(cell, method)) - len(self.results(cell, method))

    def scores(self, cell: str, method: str, score: str, kind: str = "test") -> dict[int, float]:
        """Return a score of test images by seed, with that of chance for a run that diverged.

        Args:
            cell: The cell.
            method: The method.
            score: The name of the score.
            kind: `test`, or `scaled` for scores after temperature scaling.
        """
        return {
            seed: self._chance(cell)[score] if "diverged" in r else r[kind][score]
            for seed, r in self.tested(cell, method).items()
        }

    def shape(self, cell: str, method: str, column: str) -> dict[int, float]:
        """Return the mean of a column over the matrices of a network, by seed."""
        found = {}
        for seed, r in self.results(cell, method).items():
            values = [v for m in r["matrices"].values() if (v := m[column]) is not None]
            if values:
                found[seed] = fmean(values)
        return found

    def seconds(self, cell: str, method: str) -> float:
        """Return the mean time of training; 0 if every run diverged."""
        found = [r["seconds"] for r in self.results(cell, method).values()]
        return fmean(found) if found else 0.0

    # Comparisons

    def compared(self, cell: str, first: str, second: str, score: str) -> Difference | None:
        """Return a score of two methods, paired by seed; `None` with fewer than two pairs."""
        return difference_by_seed(self.scores(cell, first, score), self.scores(cell, second, score))

    def confirmed(self) -> list[Confirmed]:
        """The confirmatory comparisons, corrected over cells for each opponent, and over all."""
        by_opponent = [
            [row for cell in self.cells if (row := self._confirmed(cell, opponent))]
            for opponent in OPPONENTS
        ]
        # The conventional entrant may also be an opponent by name, which is one comparison.
        ps = {(row.cell, row.second): row.accuracy.p for rows in by_opponent for row in rows}
        over_all = dict(zip(ps, holm(list(ps.values())), strict=True))
        return [
            replace(row, adjusted=p, adjusted_all=over_all[row.cell, row.second])
            for rows in by_opponent
            for row, p in zip(rows, holm([row.accuracy.p for row in rows]), strict=True)
        ]

    def _confirmed(self, cell: str, opponent: str) -> Confirmed | None:
        entrants = self.entrants(cell)
        if not entrants:
            return None
        first, second = entrants[HEAVY], entrants.get(opponent, opponent)
        accuracy = self.compared(cell, first, second, "accuracy")
        if accuracy is None:
            return None
        nll, ece = (self.compared(cell, first, second, score) for score in ("nll", "ece"))
        over_images = self._over_images(cell, first, second)
        return Confirmed(cell, opponent, first, second, accuracy, over_images, nll, ece)

    def _over_images(self, cell: str, first: str, second: str) -> Difference:
        a, b = self.tested(cell, first), self.tested(cell, second)
        count = self.images(cell)
        seeds = [s for s in a if s in b]
        guess = np.full(count, self._chance(cell)["accuracy"])
        pairs = [(_right(a[s], guess), _right(b[s], guess)) for s in seeds]
        return difference_over_images(*zip(*pairs, strict=True))

    def _chance(self, cell: str) -> dict[str, float]:
        return chance(self.study.cells[cell].classes)


def _right(result: Mapping[str, Any], guess: np.ndarray) -> np.ndarray:
    return guess if "diverged" in result else unpacked(result["right"], result["images"])

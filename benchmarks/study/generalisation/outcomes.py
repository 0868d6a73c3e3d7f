"""What the runs of a study say, taken from its log.

A tested run that left the finite numbers counts as `CHANCE`: a method that diverges with some seeds
must not look better for leaving them out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.study.generalisation.cells import CELLS
from benchmarks.study.generalisation.fits import unpacked
from benchmarks.study.generalisation.methods import METHODS, Numbers
from benchmarks.study.generalisation.paired import (
    Difference,
    difference,
    difference_over_images,
    holm,
)
from benchmarks.study.generalisation.run_log import RunLog

HEAVY, CONVENTIONAL = "heavy-tailed", "conventional"
OPPONENTS = (CONVENTIONAL, "weight_decay", "spectral_norm")
"""What the heavy-tailed entrant is compared with: the conventional entrant, and two by name."""
CLASSES = 10
"""Of the data of every cell."""
CHANCE = {
    "accuracy": 1 / CLASSES,
    "nll": math.log(CLASSES),
    "brier": 1 - 1 / CLASSES,
    "ece": 1 - 1 / CLASSES,
}
"""What a run that diverged counts as: a guess, whose calibration is that of a sure one."""
LEVEL = 0.05
"""Of the confirmatory tests."""


@dataclass(frozen=True)
class Confirmed:
    """One confirmatory comparison: the heavy-tailed entrant with an opponent.

    Attributes:
        cell: The cell.
        opponent: One of `OPPONENTS`.
        first: The heavy-tailed entrant.
        second: The method that the opponent is.
        accuracy: First less second.
        over_images: The same with an interval over seeds and test images.
        adjusted: The p-value of accuracy after Holm's correction over cells.
        adjusted_all: The same over all different comparisons, of cells and opponents.
        nll: First less second.
        ece: First less second.
    """

    cell: str
    opponent: str
    first: str
    second: str
    accuracy: Difference
    over_images: Difference
    adjusted: float
    adjusted_all: float
    nll: Difference
    ece: Difference

    @property
    def verdict(self) -> str:
        """In words, by the p-value over cells and the interval over images."""
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
        log: Its file.
    """

    def __init__(self, log: RunLog) -> None:
        self.log = log
        self._tested: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
        self._trials: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
        for line in log.of("run"):
            s = line["settings"]
            if s["tested"]:
                self._tested.setdefault((s["cell"], s["method"]), {})[s["seed"]] = line["result"]
            else:
                self._trials.setdefault(s["cell"], []).append((s, line["result"]))

    @property
    def cells(self) -> list[str]:
        """The cells with tested runs."""
        return [c for c in CELLS if any(cell == c for cell, _ in self._tested)]

    def methods(self, cell: str) -> list[str]:
        """The methods tested in a cell."""
        return [m for m in METHODS if (cell, m) in self._tested]

    def tested(self, cell: str, method: str) -> dict[int, dict[str, Any]]:
        """Results of tested runs by seed."""
        return dict(sorted(self._tested.get((cell, method), {}).items()))

    def results(self, cell: str, method: str) -> dict[int, dict[str, Any]]:
        """Results of tested runs by seed, without those that diverged."""
        return {seed: r for seed, r in self.tested(cell, method).items() if "diverged" not in r}

    def diverged(self, cell: str, method: str) -> int:
        """How many tested runs left the finite numbers."""
        return len(self.tested(cell, method)) - len(self.results(cell, method))

    def images(self, cell: str) -> int:
        """How many test images a cell has; 0 where every run diverged."""
        found = (r["images"] for m in self.methods(cell) for r in self.results(cell, m).values())
        return next(found, 0)

    def chosen(self, cell: str, method: str) -> dict[str, Any]:
        """The line with a method's numbers and their score."""
        return self.log.get("numbers", cell=cell, method=method)

    def entrants(self, cell: str) -> Mapping[str, str]:
        """The entrants of a cell by family; none where they have not been named."""
        line = self.log.find("entrants", cell=cell)
        return {} if line is None else line["entrants"]

    def shown(self, cell: str) -> list[str]:
        """The methods shown in more detail: plain training, the opponents, and the entrants."""
        return list(dict.fromkeys(["none", *OPPONENTS[1:], *self.entrants(cell).values()]))

    def scores(self, cell: str, method: str, score: str) -> dict[int, float]:
        """A score of test images by seed; that of `CHANCE` where a run diverged."""
        return {
            seed: CHANCE[score] if "diverged" in r else r["test"][score]
            for seed, r in self.tested(cell, method).items()
        }

    def shape(self, cell: str, method: str, column: str) -> dict[int, float]:
        """The mean of a column over the matrices of a network by seed."""
        found = {}
        for seed, r in self.results(cell, method).items():
            values = [v for m in r["matrices"].values() if (v := m[column]) is not None]
            if values:
                found[seed] = fmean(values)
        return found

    def bases(self) -> list[str]:
        """The cells of which is known how methods train: those with trials."""
        return [c for c in CELLS if self.log.find("base", cell=c) is not None]

    def trials(self, cell: str) -> tuple[int, int]:
        """How many runs of trials there are, and how many of them left the finite numbers."""
        found = [result for _, result in self._trials.get(cell, ())]
        return len(found), sum("diverged" in result for result in found)

    def base(self, cell: str) -> dict[str, Any]:
        """How methods of a cell train."""
        return dict(self.log.get("base", cell=cell)["base"])

    def tried(self, cell: str, method: str) -> list[Numbers]:
        """The numbers of a method's trials, which may be others than it has today."""
        base, found = self.base(cell), self._trials.get(cell, ())
        own = [s["numbers"] for s, _ in found if (s["method"], s["base"]) == (method, base)]
        return [numbers for i, numbers in enumerate(own) if numbers not in own[:i]]

    def validated(
        self, cell: str, method: str, score: str, numbers: Mapping[str, float]
    ) -> float | None:
        """A score of validation images in a trial, mean over splits.

        Returns:
            The score, that of `CHANCE` where a run diverged; none if the trial was not made.
        """
        own = (method, dict(numbers), self.base(cell))
        found = [
            CHANCE[score] if "diverged" in r else r["validation"][score]
            for s, r in self._trials.get(cell, ())
            if (s["method"], s["numbers"], s["base"]) == own
        ]
        return fmean(found) if found else None

    def compared(self, cell: str, first: str, second: str, score: str) -> Difference | None:
        """A score of two methods, paired by seed; none with fewer than two pairs."""
        a, b = self.scores(cell, first, score), self.scores(cell, second, score)
        seeds = [s for s in a if s in b]
        if len(seeds) < 2:
            return None
        return difference([a[s] for s in seeds], [b[s] for s in seeds])

    def confirmed(self) -> list[Confirmed]:
        """The confirmatory comparisons, corrected over cells for each opponent, and over all."""
        by_opponent = [
            [row for cell in self.cells if (row := self._confirm(cell, opponent))]
            for opponent in OPPONENTS
        ]
        # The conventional entrant may be an opponent by name too: the same comparison twice.
        ps = {(r["cell"], r["second"]): r["accuracy"].p for rows in by_opponent for r in rows}
        over_all = dict(zip(ps, holm(list(ps.values())), strict=True))
        return [
            Confirmed(**row, adjusted=p, adjusted_all=over_all[row["cell"], row["second"]])
            for rows in by_opponent
            for row, p in zip(rows, holm([r["accuracy"].p for r in rows]), strict=True)
        ]

    def _confirm(self, cell: str, opponent: str) -> dict[str, Any] | None:
        entrants = self.entrants(cell)
        if not entrants:
            return None
        first, second = entrants[HEAVY], entrants.get(opponent, opponent)
        accuracy = self.compared(cell, first, second, "accuracy")
        if accuracy is None:
            return None
        return {
            "cell": cell,
            "opponent": opponent,
            "first": first,
            "second": second,
            "accuracy": accuracy,
            "over_images": self._over_images(cell, first, second),
            "nll": self.compared(cell, first, second, "nll"),
            "ece": self.compared(cell, first, second, "ece"),
        }

    def _over_images(self, cell: str, first: str, second: str) -> Difference:
        a, b = self.tested(cell, first), self.tested(cell, second)
        count = self.images(cell)
        seeds = [s for s in a if s in b]
        pairs = [(_right(a[s], count), _right(b[s], count)) for s in seeds]
        return difference_over_images(*zip(*pairs, strict=True))


def _right(result: Mapping[str, Any], count: int) -> np.ndarray:
    if "diverged" in result:
        return np.full(count, CHANCE["accuracy"])
    return unpacked(result["right"], result["images"])

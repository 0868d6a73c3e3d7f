"""What the runs of a study say, taken from its log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from bayes_htr.benchmarks.generalisation.cells import CELLS
from bayes_htr.benchmarks.generalisation.fits import unpacked
from bayes_htr.benchmarks.generalisation.methods import METHODS
from bayes_htr.benchmarks.generalisation.paired import (
    Difference,
    difference,
    difference_over_images,
    holm,
)
from bayes_htr.benchmarks.generalisation.run_log import RunLog

HEAVY, CONVENTIONAL = "heavy-tailed", "conventional"
OPPONENTS = (CONVENTIONAL, "weight_decay", "spectral_norm")
"""What the heavy-tailed entrant is compared with: the conventional entrant, and two by name."""


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
    nll: Difference
    ece: Difference


class Outcomes:
    """The tested runs and the trials of a study.

    Args:
        log: Its file.
    """

    def __init__(self, log: RunLog) -> None:
        self.log = log
        self._tested: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
        for line in log.of("run"):
            s = line["settings"]
            if s["tested"]:
                self._tested.setdefault((s["cell"], s["method"]), {})[s["seed"]] = line["result"]

    @property
    def cells(self) -> list[str]:
        """The cells with tested runs."""
        return [c for c in CELLS if any(cell == c for cell, _ in self._tested)]

    def methods(self, cell: str) -> list[str]:
        """The methods tested in a cell."""
        return [m for m in METHODS if self.results(cell, m)]

    def results(self, cell: str, method: str) -> dict[int, dict[str, Any]]:
        """Results of tested runs by seed, without those that diverged."""
        found = self._tested.get((cell, method), {})
        return {seed: r for seed, r in sorted(found.items()) if "diverged" not in r}

    def diverged(self, cell: str, method: str) -> int:
        """How many tested runs left the finite numbers."""
        found = self._tested.get((cell, method), {})
        return sum("diverged" in r for r in found.values())

    def chosen(self, cell: str, method: str) -> dict[str, Any]:
        """The line with a method's numbers and their score."""
        line = self.log.find("numbers", cell=cell, method=method)
        assert line is not None
        return line

    def entrants(self, cell: str) -> Mapping[str, str]:
        """The entrants of a cell by family; none where they have not been named."""
        line = self.log.find("entrants", cell=cell)
        return {} if line is None else line["entrants"]

    def scores(self, cell: str, method: str, score: str) -> dict[int, float]:
        """A score of test images by seed."""
        return {seed: r["test"][score] for seed, r in self.results(cell, method).items()}

    def shape(self, cell: str, method: str, column: str) -> dict[int, float]:
        """The mean of a column over the matrices of a network by seed."""
        found = {}
        for seed, r in self.results(cell, method).items():
            values = [v for m in r["matrices"].values() if (v := m[column]) is not None]
            if values:
                found[seed] = fmean(values)
        return found

    def base(self, cell: str) -> dict[str, Any]:
        """How methods of a cell train."""
        line = self.log.find("base", cell=cell)
        assert line is not None
        return dict(line["base"])

    def validated(
        self, cell: str, method: str, score: str, numbers: Mapping[str, float]
    ) -> float | None:
        """A score of validation images in a trial, mean over splits; none if it was not made."""
        found = [
            line["result"]["validation"][score]
            for line in self.log.of("run")
            if (s := line["settings"])["cell"] == cell
            and (s["method"], s["numbers"], s["tested"]) == (method, dict(numbers), False)
            and "diverged" not in line["result"]
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
        """The confirmatory comparisons, corrected over cells for each opponent."""
        found = []
        for opponent in OPPONENTS:
            rows = [row for cell in self.cells if (row := self._confirm(cell, opponent))]
            adjusted = holm([row["accuracy"].p for row in rows])
            found += [Confirmed(**row, adjusted=p) for row, p in zip(rows, adjusted, strict=True)]
        return found

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
        a, b = self.results(cell, first), self.results(cell, second)
        seeds = [s for s in a if s in b]
        return difference_over_images([_right(a[s]) for s in seeds], [_right(b[s]) for s in seeds])


def _right(result: Mapping[str, Any]) -> np.ndarray:
    return unpacked(result["right"], result["images"])

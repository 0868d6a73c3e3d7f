"""The protocol of a study: what is chosen from what, and in which order.

1. In a cell that offers several ways to train, plain training tries them; all methods then train in
   the way that suits plain training best.
2. Every method has its trials. The one with the lowest criterion on validation images, averaged
   over the tuning seeds, is chosen. Methods that start from the tuned fit of another follow later.
3. By the same scores one method of each family of entrants becomes the entrant of the cell.
4. Only then do runs see test images: every method with its chosen numbers and all seeds.

Choices are written down as they are made and never made again, even if the ranges of trials change
for later cells. Entrants are not named for a cell of which test images have been seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

import bayes_htr as htr
from benchmarks.study.cells import Base
from benchmarks.study.log import Log
from benchmarks.study.method import Numbers
from benchmarks.study.runs import Run
from benchmarks.study.studies import Study

Stage = tuple[str, list[Run]]
"""What runs are for, and runs that do not depend on each other."""


class Protocol:
    """The stages of a study, each decided by what the log holds then.

    Args:
        study: The study, with its options.
        log: The results of the study.
        cells: The names of the cells.
        methods: The names of the methods that are tested, the reference among them.
        seeds: The number of seeds of each tested method.

    Raises:
        ValueError: There are so many seeds that those of trials are among them.
    """

    def __init__(
        self, study: Study, log: Log, cells: Sequence[str], methods: Sequence[str], seeds: int
    ) -> None:
        self.study, self.log = study, log
        self.cells, self.methods, self.seeds = cells, methods, seeds
        most = min(study.tuning_seeds)
        if seeds > most and any(study.cells[cell].split_seed is None for cell in cells):
            raise ValueError(
                f"seeds={seeds} must be at most {most}; later seeds are those of trials"
            )

    def stages(self) -> Iterator[Stage]:
        """All stages: each cell until entrants are named, then the tested runs of all cells."""
        methods = self.study.methods
        starts = [start for m in self.methods if (start := methods[m].start) is not None]
        needed = list(dict.fromkeys([*starts, *self.methods]))
        first = [m for m in needed if methods[m].start is None]
        later = [m for m in needed if m not in first]
        for cell in self.cells:
            reference = self.study.reference
            chosen = self.log.find("numbers", cell=cell, method=reference) is not None
            if reference is not None and not chosen:
                bases = self.study.cells[cell].bases()
                yield f"{cell}: plain training", [r for b in bases for r in self._plain(cell, b)]
            self._choose_base(cell)
            for label, group in (("trials", first), ("trials from tuned fits", later)):
                if group:
                    yield f"{cell}: {label}", [run for m in group for run in self._trials(cell, m)]
                for method in group:
                    self._choose_numbers(cell, method)
            self._choose_entrants(cell)
        yield (
            "tests",
            [
                run
                for seed in range(self.seeds)
                for cell in self.cells
                for method in self.methods
                for run in self._runs(
                    cell, method, self._numbers(cell, method), [seed], tested=True
                )
            ],
        )

    def _runs(
        self,
        cell: str,
        method: str,
        numbers: Numbers,
        seeds: Iterable[int],
        *,
        base: Base | None = None,
        tested: bool = False,
    ) -> list[Run]:
        """Runs with several seeds; without `base` they train in the way that was chosen."""
        ends = {}
        if base is None:
            line = self.log.get("base", cell=cell)
            base = Base(**line["base"])
            # Only runs with a threshold depend on it, so that the others are found without one.
            ends = {name: end for name, end in line["ends"].items() if method == f"{name}_above"}
        first = self.study.methods[method].start
        start = None if first is None else self._numbers(cell, first)
        shrink = self.study.cells[cell].shrink
        return [
            Run(cell, method, numbers, base, seed, ends, tested, shrink, start) for seed in seeds
        ]

    # How all methods train

    def _plain(self, cell: str, base: Base) -> list[Run]:
        assert self.study.reference is not None
        return self._runs(cell, self.study.reference, {}, self.study.tuning_seeds, base=base)

    def _choose_base(self, cell: str) -> None:
        if self.log.find("base", cell=cell) is not None:
            return
        bases = self.study.cells[cell].bases()
        if self.study.reference is None:  # there is no choice: methods name what they need
            self._note("base", {"cell": cell}, None, base=asdict(bases[0]), ends={})
            return
        scored = {base: self._score(self._plain(cell, base)) for base in bases}
        best = min(scored, key=scored.__getitem__)
        if scored[best] == math.inf:
            raise htr.DivergenceError(
                f"{cell}: plain training diverged with {', '.join(map(str, scored))}; give the "
                "cell lower learning rates"
            )
        found = [self._result(run)["ends"] for run in self._plain(cell, best)]
        ends = {name: fmean(f[name] for f in found) for name in found[0]}
        self._note("base", {"cell": cell}, scored[best], base=asdict(best), ends=ends)

    # The numbers of each method

    def _numbers(self, cell: str, method: str) -> Numbers:
        """Return the numbers that were chosen."""
        numbers: Numbers = self.log.get("numbers", cell=cell, method=method)["numbers"]
        return numbers

    def _trials(self, cell: str, method: str) -> list[Run]:
        """Return the trials of a method whose numbers have not been chosen yet."""
        described = self.study.methods[method]
        if not described.tuned or self.log.find("numbers", cell=cell, method=method) is not None:
            return []
        seeds = self.study.tuning_seeds
        return [r for numbers in described.trials for r in self._runs(cell, method, numbers, seeds)]

    def _choose_numbers(self, cell: str, method: str) -> None:
        if self.log.find("numbers", cell=cell, method=method) is not None:
            return
        described = self.study.methods[method]
        score, numbers = math.inf, described.trials[0]
        if described.tuned or method == self.study.reference:
            seeds = self.study.tuning_seeds
            scored = [
                (self._score(self._runs(cell, method, n, seeds)), n) for n in described.trials
            ]
            score, numbers = min(scored, key=lambda pair: pair[0])
        self._note("numbers", {"cell": cell, "method": method}, score, numbers=numbers)

    def _choose_entrants(self, cell: str) -> None:
        if self.log.find("entrants", cell=cell) is not None or self._seen(cell):
            return
        entrants = {}
        for family in self.study.entrants:
            scored = {
                method: score
                for method in self.methods
                if self.study.methods[method].family == family
                and (score := self.log.get("numbers", cell=cell, method=method)["score"])
                is not None
            }
            if not scored:
                return
            entrants[family] = min(scored, key=scored.__getitem__)
        if entrants:
            self._note("entrants", {"cell": cell}, None, entrants=entrants)

    def _seen(self, cell: str) -> bool:
        """Return whether a run of a cell has seen test images."""
        runs = (line["settings"] for line in self.log.of("run"))
        return any(s["cell"] == cell and s["tested"] for s in runs)

    # Results

    def _score(self, runs: Iterable[Run]) -> float:
        """Return the criterion, averaged over runs; infinite if one of them diverged."""
        results = [self._result(run) for run in runs]
        if any("diverged" in r for r in results):
            return math.inf
        return fmean(r["validation"][self.study.criterion] for r in results)

    def _result(self, run: Run) -> dict[str, Any]:
        result: dict[str, Any] = self.log.get("run", **run.settings())["result"]
        return result

    def _note(self, kind: str, settings: dict[str, Any], score: float | None, **rest: Any) -> None:
        finite = None if score is None or score == math.inf else score
        self.log.append(kind, settings, score=finite, **rest)

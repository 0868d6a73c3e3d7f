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
from benchmarks.study.methods import Numbers
from benchmarks.study.runs import Run
from benchmarks.study.studies import Study

Stage = tuple[str, list[Run]]
"""What runs are for, and runs that do not depend on each other."""


class Protocol:
    """The stages of a study, each decided by what the log holds then.

    Args:
        study: The study, with its options.
        log: Its results.
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
        tuned = dict.fromkeys([*self._starts(), *self.methods])
        later = [m for m in tuned if self.study.methods[m].start is not None]
        first = [m for m in tuned if m not in later]
        for cell in self.cells:
            if self.study.reference is not None:
                runs = [r for base in self._bases(cell) for r in self._plain(cell, base)]
                yield f"{cell}: plain training", runs
            self._choose_base(cell)
            for label, methods in (("trials", first), ("trials from tuned fits", later)):
                runs = [run for m in methods for run in self._trials(cell, m)]
                if runs or methods:
                    yield f"{cell}: {label}", runs
                for method in methods:
                    self._choose_numbers(cell, method)
            self._choose_entrants(cell)
        yield "tests", [run for seed in range(self.seeds) for run in self._tested(seed)]

    def _starts(self) -> list[str]:
        starts = (self.study.methods[method].start for method in self.methods)
        return [start for start in starts if start is not None]

    # How all methods train

    def _bases(self, cell: str) -> list[Base]:
        return self.study.cells[cell].bases()

    def _plain(self, cell: str, base: Base) -> list[Run]:
        assert self.study.reference is not None
        return self._of_trial(cell, self.study.reference, {}, base, {})

    def _choose_base(self, cell: str) -> None:
        if self.log.find("base", cell=cell) is not None:
            return
        bases = self._bases(cell)
        if self.study.reference is None:  # methods bring what they need, and there is no choice
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

    def _trials(self, cell: str, method: str) -> list[Run]:
        """The trials of a method whose numbers have not been chosen yet."""
        described = self.study.methods[method]
        if not described.tuned or self.log.find("numbers", cell=cell, method=method) is not None:
            return []
        return [r for numbers in described.trials for r in self._trial(cell, method, numbers)]

    def _trial(self, cell: str, method: str, numbers: Numbers) -> list[Run]:
        line = self.log.get("base", cell=cell)
        return self._of_trial(cell, method, numbers, Base(**line["base"]), line["ends"])

    def _of_trial(
        self, cell: str, method: str, numbers: Numbers, base: Base, ends: dict[str, float]
    ) -> list[Run]:
        return [
            self._run(cell, method, numbers, base, seed, ends, tested=False)
            for seed in self.study.tuning_seeds
        ]

    def _choose_numbers(self, cell: str, method: str) -> None:
        if self.log.find("numbers", cell=cell, method=method) is not None:
            return
        described = self.study.methods[method]
        score, numbers = math.inf, described.trials[0]
        if described.tuned or method == self.study.reference:
            scored = [(self._score(self._trial(cell, method, n)), n) for n in described.trials]
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
        """Whether a run of a cell has seen test images."""
        runs = (line["settings"] for line in self.log.of("run"))
        return any(s["cell"] == cell and s["tested"] for s in runs)

    def _tested(self, seed: int) -> Iterator[Run]:
        for cell in self.cells:
            line = self.log.get("base", cell=cell)
            for method in self.methods:
                numbers = self.log.get("numbers", cell=cell, method=method)["numbers"]
                base = Base(**line["base"])
                yield self._run(cell, method, numbers, base, seed, line["ends"], tested=True)

    # What all stages share

    def _run(
        self,
        cell: str,
        method: str,
        numbers: Numbers,
        base: Base,
        seed: int,
        ends: dict[str, float],
        *,
        tested: bool,
    ) -> Run:
        # Only runs that need a threshold depend on it, so that the others are found without one.
        own = {k: v for k, v in ends.items() if method == f"{k}_above"}
        first = self.study.methods[method].start
        start = None
        if first is not None:
            start = self.log.get("numbers", cell=cell, method=first)["numbers"]
        shrink = self.study.cells[cell].shrink
        return Run(cell, method, numbers, base, seed, own, tested, shrink, start)

    def _score(self, runs: Iterable[Run]) -> float:
        """The criterion, averaged over runs; infinite if one of them diverged."""
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

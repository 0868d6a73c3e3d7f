"""The protocol: what is chosen from what, and in which order.

1. Plain training tries learning rates, schedules and lengths; all methods then train as it does.
2. Every method has its trials. The one with the lowest Brier score of validation images, mean over
   the splits of `TUNING_SEEDS`, is chosen.
3. By the same scores one conventional and one heavy-tailed method become the entrants of the cell.
4. Only then do runs see test images: every method as it was chosen, with all seeds.

Choices are written down as they are made and never made again, though ranges of trials may change
for later cells; entrants are not named for a cell of which test images were seen. The Brier score
stands between accuracy, which says too little with a thousand images, and NLL, which a few sure
mistakes decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from bayes_htr.errors import DivergenceError
from benchmarks.study.generalisation.cells import CELLS, Base
from benchmarks.study.generalisation.fits import Run
from benchmarks.study.generalisation.methods import METHODS, TUNED, Numbers
from benchmarks.study.generalisation.run_log import RunLog

TUNING_SEEDS = (1000, 1001)
"""Seeds of trials, which no tested run has."""
CRITERION = "brier"
FAMILIES = ("conventional", "heavy-tailed")
"""Each has one entrant in a cell."""


@dataclass(frozen=True)
class Settings:
    """What a study is of.

    Attributes:
        cells: Keys of `CELLS`.
        methods: Keys of `METHODS`, `none` among them.
        seeds: With how many seeds chosen methods are fitted.
        trials: At most so many trials of each method, spread over its range.
        tuning: How many of `TUNING_SEEDS`.
        shrink: Every so many-th training image is taken.
        epochs: Of every run, instead of what plain training chooses.

    Raises:
        ValueError: So many seeds that those of trials are among them.
    """

    cells: Sequence[str]
    methods: Sequence[str]
    seeds: int = 10
    tuning: int = len(TUNING_SEEDS)
    trials: int | None = None
    shrink: int = 1
    epochs: int | None = None

    def __post_init__(self) -> None:
        if self.seeds > (most := TUNING_SEEDS[0]):
            raise ValueError(f"seeds={self.seeds}: at most {most}; later ones are those of trials")


@dataclass(frozen=True)
class Stage:
    """Runs that do not depend on each other.

    Attributes:
        label: What they are for.
        runs: The runs.
    """

    label: str
    runs: Sequence[Run]


class Protocol:
    """The stages of a study, each decided by what the log holds then.

    Args:
        settings: What the study is of.
        log: Its file.
    """

    def __init__(self, settings: Settings, log: RunLog) -> None:
        self.settings, self.log = settings, log

    def stages(self) -> Iterator[Stage]:
        """All stages, cell by cell until entrants are named, then the tested runs of all cells."""
        for cell in self.settings.cells:
            yield Stage(f"{cell}: plain training", list(self._plain(cell)))
            self._choose_base(cell)
            yield Stage(f"{cell}: trials", list(self._trials(cell)))
            self._choose_numbers(cell)
            self._choose_entrants(cell)
        tested = [run for seed in range(self.settings.seeds) for run in self._tested(seed)]
        yield Stage("tests", tested)

    def base(self, cell: str) -> Base:
        """How methods of a cell train."""
        return Base(**self.log.get("base", cell=cell)["base"])

    def numbers(self, cell: str, method: str) -> Numbers:
        """The numbers of a method that were chosen."""
        chosen: Numbers = self.log.get("numbers", cell=cell, method=method)["numbers"]
        return chosen

    def _plain(self, cell: str) -> Iterator[Run]:
        for base in self._bases(cell):
            yield from self._of_trial(cell, "none", {}, base, {})

    def _bases(self, cell: str) -> list[Base]:
        bases = CELLS[cell].bases()
        if self.settings.epochs is None:
            return bases
        own = (Base(self.settings.epochs, b.lr, b.schedule) for b in bases)
        return list(dict.fromkeys(own))

    def _of_trial(
        self, cell: str, method: str, numbers: Numbers, base: Base, ends: dict[str, float]
    ) -> Iterator[Run]:
        for seed in TUNING_SEEDS[: self.settings.tuning]:
            yield self._run(cell, method, numbers, base, seed, ends, tested=False)

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
        # A run knows of thresholds only where it has one: others stay the same without them.
        own = {k: v for k, v in ends.items() if method == f"{k}_above"}
        return Run(cell, method, numbers, base, seed, own, tested, self.settings.shrink)

    def _choose_base(self, cell: str) -> None:
        if self.log.find("base", cell=cell) is None:
            scored = {
                base: self._score(self._of_trial(cell, "none", {}, base, {}))
                for base in self._bases(cell)
            }
            best = min(scored, key=scored.__getitem__)
            if scored[best] == math.inf:
                raise DivergenceError(
                    f"{cell}: plain training diverged with {', '.join(map(str, scored))}; give the "
                    "cell lower learning rates"
                )
            runs = list(self._of_trial(cell, "none", {}, best, {}))
            ends = self._ends(runs)
            self._note("base", {"cell": cell}, scored[best], base=asdict(best), ends=ends)

    def _ends(self, runs: Iterable[Run]) -> dict[str, float]:
        """The mean penalties at the end of runs."""
        found = [self._result(run)["ends"] for run in runs]
        return {name: fmean(f[name] for f in found) for name in found[0]}

    def _trials(self, cell: str) -> Iterator[Run]:
        for method in self.settings.methods:
            chosen = self.log.find("numbers", cell=cell, method=method) is not None
            if method in TUNED and not chosen:
                for numbers in self._numbers(method):
                    yield from self._of_trial(
                        cell, method, numbers, self.base(cell), self._all_ends(cell)
                    )

    def _all_ends(self, cell: str) -> dict[str, float]:
        ends: dict[str, float] = self.log.get("base", cell=cell)["ends"]
        return ends

    def _numbers(self, method: str) -> Sequence[Numbers]:
        trials = METHODS[method].trials
        count = self.settings.trials
        if count is None or count >= len(trials):
            return trials
        # Spread over the range.
        return [trials[round(i * (len(trials) - 1) / max(1, count - 1))] for i in range(count)]

    def _choose_numbers(self, cell: str) -> None:
        for method in self.settings.methods:
            if self.log.find("numbers", cell=cell, method=method) is not None:
                continue
            scored = [(self._trial_score(cell, method, n), n) for n in self._numbers(method)]
            best = min(scored, key=lambda pair: pair[0])
            self._note("numbers", {"cell": cell, "method": method}, best[0], numbers=best[1])

    def _trial_score(self, cell: str, method: str, numbers: Numbers) -> float:
        if METHODS[method].members > 1:  # not tuned
            return math.inf
        base, ends = self.base(cell), self._all_ends(cell)
        return self._score(self._of_trial(cell, method, numbers, base, ends))

    def _choose_entrants(self, cell: str) -> None:
        if self.log.find("entrants", cell=cell) is not None or self._seen(cell):
            return
        entrants = {}
        for family in FAMILIES:
            scored = {
                m: self.log.get("numbers", cell=cell, method=m)["score"]
                for m in self.settings.methods
                if METHODS[m].family == family
            }
            finite = {m: score for m, score in scored.items() if score is not None}
            if not finite:
                return
            entrants[family] = min(finite, key=finite.__getitem__)
        self._note("entrants", {"cell": cell}, None, entrants=entrants)

    def _seen(self, cell: str) -> bool:
        """Whether a run of a cell has seen test images."""
        return any(
            line["settings"]["cell"] == cell and line["settings"]["tested"]
            for line in self.log.of("run")
        )

    def _note(self, kind: str, settings: dict[str, Any], score: float | None, **rest: Any) -> None:
        finite = None if score is None or score == math.inf else score
        self.log.append(kind, settings, score=finite, **rest)

    def _tested(self, seed: int) -> Iterator[Run]:
        for cell in self.settings.cells:
            base, ends = self.base(cell), self._all_ends(cell)
            for method in self.settings.methods:
                numbers = self.numbers(cell, method)
                yield self._run(cell, method, numbers, base, seed, ends, tested=True)

    def _score(self, runs: Iterable[Run]) -> float:
        """The criterion, mean over runs; infinite where one of them diverged."""
        results = [self._result(run) for run in runs]
        if any("diverged" in r for r in results):
            return math.inf
        return fmean(r["validation"][CRITERION] for r in results)

    def _result(self, run: Run) -> dict[str, Any]:
        result: dict[str, Any] = self.log.get("run", **run.settings())["result"]
        return result

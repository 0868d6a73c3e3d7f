"""Tables of the study of mixtures: scores by number of members, and comparisons at equal cost.

The comparisons were named before test data were read:

1. One Lomax posterior with one network by each of `OPPONENTS`.
2. The mixture of Lomax posteriors with the ensemble of five networks by the same methods. The
   mixture is the largest that takes no more processor time, or a single posterior if that one
   already takes more.
3. The mixture of all Lomax posteriors with that of as many exponential ones, the control without a
   heavy tail.

A difference is decided if its p-value is below `LEVEL` after Holm's correction over cells, for each
opponent and score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.common.paired import Difference, difference_by_seed, holm
from benchmarks.common.tables import TextTable, mean
from benchmarks.study.generalisation_tables import interval
from benchmarks.study.outcomes import CONVENTIONAL, LEVEL, Outcomes, chance

OURS, CONTROL = "svi_lomax", "svi_exponential"
OPPONENTS = ("none", CONVENTIONAL, "weight_decay", "spectral_norm")
"""Plain training, the conventional method that validation data prefer, and two by name."""
_SCORES = {"accuracy": 1.0, "nll": -1.0, "brier": -1.0}
"""The compared scores, with the sign of what is better."""
_SHOWN = ("accuracy", "nll", "brier", "ece")


@dataclass(frozen=True)
class Mixture:
    """The first members of a method in a cell.

    Attributes:
        outcomes: The results.
        cell: The cell.
        method: The method.
        size: How many members there are.
    """

    outcomes: Outcomes
    cell: str
    method: str
    size: int

    @property
    def label(self) -> str:
        """The number of members and the name of the method."""
        return f"{self.size} x {self.outcomes.label(self.method)}"

    @property
    def seconds(self) -> float:
        """The processor time of training all members, the median over runs that ended well."""
        found = self.outcomes.results(self.cell, self.method).values()
        return median(_by_size(result)[self.size - 1]["seconds"] for result in found)

    def scores(self, score: str) -> dict[int, float]:
        """Return a score of test data by seed, with that of chance for a run that diverged."""
        guess = chance(self.outcomes.study.cells[self.cell].classes)[score]
        return {
            seed: guess if "diverged" in result else _by_size(result)[self.size - 1]["test"][score]
            for seed, result in self.outcomes.tested(self.cell, self.method).items()
        }


def mixtures(outcomes: Outcomes, cell: str, method: str) -> list[Mixture]:
    """Return the mixtures of one, two, ... members; none if the method was not tested."""
    found = outcomes.results(cell, method).values()
    largest = max((len(_by_size(result)) for result in found), default=0)
    return [Mixture(outcomes, cell, method, size) for size in range(1, largest + 1)]


def _by_size(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the results of one, two, ... members; of a method with a single one, its result."""
    return result.get("mixtures", [result])


@dataclass(frozen=True)
class Comparison:
    """A mixture against another one in a cell, paired by seed.

    Attributes:
        first: The mixture.
        second: What it is compared with.
        found: The difference of each score, first minus second.
    """

    first: Mixture
    second: Mixture
    found: dict[str, Difference]

    @property
    def cost(self) -> float:
        """The processor time of the first as a multiple of that of the second."""
        return self.first.seconds / self.second.seconds


def compared(first: Mixture, second: Mixture) -> Comparison | None:
    """Return the comparison of two mixtures; `None` with fewer than two common seeds."""
    found = {}
    for score in _SCORES:
        d = difference_by_seed(first.scores(score), second.scores(score))
        if d is None:
            return None
        found[score] = d
    return Comparison(first, second, found)


def one_by_one(outcomes: Outcomes, cell: str, opponent: str) -> Comparison | None:
    """Return one Lomax posterior with one network."""
    ours, theirs = _sides(outcomes, cell, opponent)
    return compared(ours[0], theirs[0]) if ours and theirs else None


def at_equal_cost(outcomes: Outcomes, cell: str, opponent: str) -> Comparison | None:
    """The mixture of posteriors that costs no more than the whole ensemble, with this ensemble."""
    ours, theirs = _sides(outcomes, cell, opponent)
    if not ours or not theirs:
        return None
    within = [mixture for mixture in ours if mixture.seconds <= theirs[-1].seconds]
    return compared((within or ours[:1])[-1], theirs[-1])


def with_control(outcomes: Outcomes, cell: str, opponent: str) -> Comparison | None:
    """Return the mixture of all Lomax posteriors with that of as many posteriors of the control."""
    ours, theirs = _sides(outcomes, cell, opponent)
    size = min(len(ours), len(theirs))
    return compared(ours[size - 1], theirs[size - 1]) if size else None


def _sides(outcomes: Outcomes, cell: str, opponent: str) -> tuple[list[Mixture], list[Mixture]]:
    method = outcomes.entrants(cell).get(opponent, opponent)
    known = method in outcomes.study.methods
    return (
        mixtures(outcomes, cell, OURS),
        mixtures(outcomes, cell, method) if known else [],
    )


def mixture_tables(outcomes: Outcomes) -> list[TextTable]:
    """Return the comparisons, then the scores of each cell."""
    named = ((opponent, _named(outcomes, opponent)) for opponent in OPPONENTS)
    tables = []
    for opponent, label in named:
        tables.append(
            _comparisons(outcomes, opponent, one_by_one, f"One posterior against one: {label}")
        )
        tables.append(
            _comparisons(
                outcomes,
                opponent,
                at_equal_cost,
                f"Mixture of posteriors against five, at no more cost: {label}",
            )
        )
    tables.append(
        _comparisons(outcomes, CONTROL, with_control, "Mixture of posteriors against the control")
    )
    tables += [_scores(outcomes, cell) for cell in outcomes.cells]
    return [table for table in tables if table.rows]


def _named(outcomes: Outcomes, opponent: str) -> str:
    if opponent == CONVENTIONAL:
        return "the conventional method that validation data prefer"
    return outcomes.label(opponent)


def _comparisons(
    outcomes: Outcomes,
    opponent: str,
    compare: Callable[[Outcomes, str, str], Comparison | None],
    title: str,
) -> TextTable:
    found = [c for cell in outcomes.cells if (c := compare(outcomes, cell, opponent))]
    adjusted = {s: holm([c.found[s].p for c in found]) for s in _SCORES}
    rows = []
    for number, c in enumerate(found):
        cells = []
        for score in _SCORES:
            d, p = c.found[score], adjusted[score][number]
            cells += [interval(d, 1, 4), f"{p:.3f}", verdict(score, d, p)]
        pairs = str(next(iter(c.found.values())).pairs)
        rows.append([c.first.cell, f"{c.first.label} / {c.second.label}", pairs, f"{c.cost:.2f}"])
        rows[-1] += cells
    heads = ("accuracy", "p", "", "NLL", "p", "", "Brier", "p", "")
    return TextTable(title, ("cell", "first / second", "seeds", "cost", *heads), rows)


def verdict(score: str, d: Difference, adjusted: float) -> str:
    """Return what a difference says of the first mixture."""
    if adjusted >= LEVEL:
        return "undecided"
    return "ahead" if d.mean * _SCORES[score] > 0 else "behind"


def _scores(outcomes: Outcomes, cell: str) -> TextTable:
    rows = []
    for method in outcomes.methods(cell):
        for mixture in mixtures(outcomes, cell, method):
            found = [mixture.scores(score) for score in _SHOWN]
            rows.append(
                [
                    outcomes.label(method) if mixture.size == 1 else "",
                    str(mixture.size),
                    str(len(found[0])),
                    *(mean(values.values(), 1, 4) for values in found),
                    f"{mixture.seconds:.1f}",
                ]
            )
    columns = ("accuracy", "NLL", "Brier", "ECE", "s")
    title = f"{cell}: test scores by number of members, means (standard deviations) over seeds"
    return TextTable(title, ("method", "members", "seeds", *columns), rows)

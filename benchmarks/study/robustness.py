"""Tables and pictures of the study of robustness: a table and a picture for each question.

The questions are how scores fall with noisy labels, with few training images, with each kind of
shift of the test images, and with fewer singular values. All of it is exploratory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from bayes_htr._plotting import WIDEST, new_panels, styled
from benchmarks.common.paired import difference_by_seed
from benchmarks.common.pictures import METHOD_LINES, grid, method_legend, save
from benchmarks.common.tables import NOTHING, TextTable, mean
from benchmarks.study.conditions import KEPT, SHIFTS
from benchmarks.study.generalisation_tables import interval
from benchmarks.study.outcomes import Outcomes, chance

HEAVY = "svi_lomax"
OPPONENTS = ("weight_decay", "spectral_norm", "svi_exponential")
_SCORES = {"accuracy": "accuracy", "nll": "NLL"}

BySeed = dict[int, float]
"""A score of test images by seed."""


@dataclass(frozen=True)
class Condition:
    """A condition of a question in a cell.

    Attributes:
        label: What it is called in tables and on the axis of a picture.
        scores: Returns a score by seed, from the names of a method and of the score.
    """

    label: str
    scores: Callable[[str, str], BySeed]


def questions(outcomes: Outcomes, cell: str) -> Iterator[tuple[str, list[Condition]]]:
    """The conditions of each question in a cell with conditions, from the mildest on."""

    def of_cell(name: str) -> Callable[[str, str], BySeed]:
        return lambda method, score: outcomes.scores(name, method, score)

    def of_condition(kind: str, severity: str) -> Callable[[str, str], BySeed]:
        return lambda method, score: _under(outcomes, cell, method, kind, severity, score)

    images = {
        name: described.train - described.validation
        for name, described in outcomes.study.cells.items()
        if described.like == outcomes.study.cells[cell].like and described.label_noise == 0
    }
    there = {method: outcomes.results(cell, method) for method in outcomes.methods(cell)}
    images[cell] = next((r["num_data"] for rs in there.values() for r in rs.values()), 0)
    yield (
        "label noise, share",
        [
            Condition(f"{share:g}", of_cell(name))
            for share, name in ((0.0, cell), (0.2, f"{cell}-noise20"), (0.4, f"{cell}-noise40"))
        ],
    )
    most_first = sorted(images, key=lambda name: -images[name])
    yield (
        "training images",
        [Condition(f"{images[name]:,}", of_cell(name)) for name in most_first],
    )
    for kind, by_severity in SHIFTS.items():
        shifted = [Condition(f"{s:g}", of_condition(kind, f"{s:g}")) for s in by_severity]
        yield kind, [Condition("0", of_cell(cell)), *shifted]
    kept = [Condition(f"{share:g}", of_condition("kept", f"{share:g}")) for share in KEPT]
    yield "singular values kept, share", kept


def _under(
    outcomes: Outcomes, cell: str, method: str, kind: str, severity: str, score: str
) -> BySeed:
    guess = chance(outcomes.study.cells[cell].classes)[score]
    return {
        seed: guess if "diverged" in result else result["conditions"][kind][severity][score]
        for seed, result in outcomes.tested(cell, method).items()
    }


def main_cells(outcomes: Outcomes) -> list[str]:
    """Return the tested cells with conditions."""
    return [cell for cell in outcomes.cells if outcomes.study.cells[cell].conditions]


def robustness_tables(outcomes: Outcomes) -> list[TextTable]:
    """For each cell and question the scores of all methods, and what the heavy tail adds."""
    tables = []
    for cell in main_cells(outcomes):
        for question, conditions in questions(outcomes, cell):
            tables += [_scores(outcomes, cell, question, conditions, score) for score in _SCORES]
        tables += [_compared(outcomes, cell, opponent) for opponent in OPPONENTS]
    tables.append(_out_of_distribution(outcomes))
    return [table for table in tables if table.rows]


def _scores(
    outcomes: Outcomes, cell: str, question: str, conditions: list[Condition], score: str
) -> TextTable:
    rows = []
    for method in outcomes.methods(cell):
        found = [condition.scores(method, score) for condition in conditions]
        cells = [mean(by_seed.values(), 1, 4) if by_seed else NOTHING for by_seed in found]
        rows.append([outcomes.label(method), str(len(found[0])), *cells])
    labels = [condition.label for condition in conditions]
    title = f"{cell}: {_SCORES[score]} by {question}"
    return TextTable(title, ("method", "seeds", *labels), rows)


def _compared(outcomes: Outcomes, cell: str, opponent: str) -> TextTable:
    """Return the Lomax posterior minus an opponent under every condition, paired by seed."""
    rows = []
    for question, conditions in questions(outcomes, cell):
        for condition in conditions:
            found = [
                difference_by_seed(
                    condition.scores(HEAVY, score), condition.scores(opponent, score)
                )
                for score in _SCORES
            ]
            if None not in found:
                rows.append([question, condition.label, *(interval(d, 1, 4) for d in found)])
    title = f"{cell}: {outcomes.label(HEAVY)} minus {outcomes.label(opponent)}"
    return TextTable(title, ("question", "condition", *_SCORES.values()), rows)


def _out_of_distribution(outcomes: Outcomes) -> TextTable:
    rows = []
    for cell in main_cells(outcomes):
        if outcomes.study.cells[cell].ood is not None:
            for method in outcomes.methods(cell):
                found = outcomes.scores(cell, method, "ood_auroc_entropy")
                label = outcomes.label(method)
                rows.append([cell, label, str(len(found)), mean(found.values(), 1, 4)])
    return TextTable(
        "Images of another data set told apart by entropy",
        ("cell", "method", "seeds", "area under the ROC curve"),
        rows,
    )


@styled
def draw_robustness(outcomes: Outcomes, folder: Path) -> list[Path]:
    """Write a picture for each question: a column for each cell, a row for each score.

    Raises:
        ImportError: matplotlib is not installed.
    """
    cells = main_cells(outcomes)
    asked: dict[str, dict[str, list[Condition]]] = {}
    for cell in cells:
        for question, conditions in questions(outcomes, cell):
            asked.setdefault(question, {})[cell] = conditions
    drawn = []
    for question, by_cell in asked.items():
        name = question.partition(",")[0].replace(" ", "-")
        drawn.append(save(_picture(outcomes, question, by_cell), folder / f"{name}.png"))
    return drawn


def _picture(outcomes: Outcomes, question: str, by_cell: Mapping[str, list[Condition]]) -> Any:
    figure, axes = new_panels(len(_SCORES), len(by_cell), WIDEST, 2.2 * len(_SCORES) + 0.8)
    methods: dict[str, None] = {}
    for number, ax in enumerate(axes):
        score = list(_SCORES)[number // len(by_cell)]
        cell = list(by_cell)[number % len(by_cell)]
        conditions = by_cell[cell]
        for method in outcomes.methods(cell):
            found = [condition.scores(method, score) for condition in conditions]
            places = [place for place, by_seed in enumerate(found) if by_seed]
            means = [fmean(found[place].values()) for place in places]
            colour, style = METHOD_LINES[method]
            ax.plot(places, means, color=colour, ls=style, marker="o", ms=3)
            methods[method] = None
        ax.set_xticks(range(len(conditions)), [condition.label for condition in conditions])
        grid(ax)
        if number < len(by_cell):
            ax.set_title(cell)
        if number % len(by_cell) == 0:
            ax.set_ylabel(_SCORES[score])
        if number >= len(axes) - len(by_cell):
            ax.set_xlabel(question)
    method_legend(figure, {method: outcomes.label(method) for method in methods})
    return figure

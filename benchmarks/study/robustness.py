"""Tables and pictures of the study of robustness: a table and a picture for each question.

The questions are how scores change with noisy labels, with few training images, with the width of
the network, with each kind of shift of the test images, with fewer singular values, and with the
layers that have the heavy tail, and how well entropy tells images of another data set apart. All of
it is exploratory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import fmean
from typing import Any

from bayes_htr._plotting import BLUE, GREY, WIDEST, new_panels, styled
from benchmarks.common.paired import Difference, difference_by_seed
from benchmarks.common.pictures import METHOD_LINES, grid, method_legend, save
from benchmarks.common.tables import NOTHING, TextTable, mean
from benchmarks.study.conditions import KEPT, SHIFTS
from benchmarks.study.generalisation_tables import interval
from benchmarks.study.method import LAYERS
from benchmarks.study.outcomes import Outcomes, chance

HEAVY = "svi_lomax"
OPPONENTS = ("weight_decay", "spectral_norm", "svi_exponential")
LIGHT_LAYERS = "heavy_none"
_SCORES = {"accuracy": "accuracy", "nll": "NLL"}
_OOD = "ood_auroc_entropy"

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

    clean = {
        name: described
        for name, described in outcomes.study.cells.items()
        if described.like == cell and described.label_noise == 0
    }
    images = {name: c.train - c.validation for name, c in clean.items() if c.width == 1}
    widths = {name: c.width for name, c in clean.items() if c.train == clean[cell].train}
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
    if len(widths) > 1:
        narrow_first = sorted(widths, key=lambda name: widths[name])
        yield (
            "width of the network",
            [Condition(f"{widths[name]:g}", of_cell(name)) for name in narrow_first],
        )
    for kind, by_severity in SHIFTS.items():
        shifted = [Condition(f"{s:g}", of_condition(kind, f"{s:g}")) for s in by_severity]
        yield kind, [Condition("0", of_cell(cell)), *shifted]
    kept = [Condition(str(Fraction(share)), of_condition("kept", f"{share:g}")) for share in KEPT]
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
    """Scores of all methods for each cell and question, and what the heavy tail adds."""
    tables = []
    for cell in main_cells(outcomes):
        for question, conditions in questions(outcomes, cell):
            tables += [_scores(outcomes, cell, question, conditions, score) for score in _SCORES]
        tables += [_compared(outcomes, cell, opponent) for opponent in OPPONENTS]
        tables.append(_by_layer(outcomes, cell))
    tables.append(_out_of_distribution(outcomes))
    return [table for table in tables if table.rows]


def _scores(
    outcomes: Outcomes, cell: str, question: str, conditions: list[Condition], score: str
) -> TextTable:
    rows = []
    for method in _methods(outcomes, cell):
        found = [condition.scores(method, score) for condition in conditions]
        cells = [mean(by_seed.values(), 1, 4) if by_seed else NOTHING for by_seed in found]
        rows.append([outcomes.label(method), str(len(found[0])), *cells])
    labels = [condition.label for condition in conditions]
    title = f"{cell}: {_SCORES[score]} by {question}"
    return TextTable(title, ("method", "seeds", *labels), rows)


def _methods(outcomes: Outcomes, cell: str, *, by_layer: bool = False) -> list[str]:
    """Return the tested methods that treat all layers alike, or those by layers in their place."""
    is_by_layer = {m: outcomes.study.methods[m].family == LAYERS for m in outcomes.methods(cell)}
    return [method for method, own in is_by_layer.items() if own == by_layer]


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


def _from_light(outcomes: Outcomes, cell: str, method: str, score: str) -> Difference | None:
    """Return a score of a method with heavy-tailed layers minus that of light tails everywhere."""
    return difference_by_seed(
        *(outcomes.scores(cell, name, score) for name in (method, LIGHT_LAYERS))
    )


def _by_layer(outcomes: Outcomes, cell: str) -> TextTable:
    rows = []
    for method in _methods(outcomes, cell, by_layer=True):
        row = [outcomes.label(method), str(len(outcomes.tested(cell, method)))]
        for score in _SCORES:
            found = outcomes.scores(cell, method, score)
            d = None if method == LIGHT_LAYERS else _from_light(outcomes, cell, method, score)
            row += [mean(found.values(), 1, 4), interval(d, 1, 4)]
        rows.append(row)
    columns = [c for name in _SCORES.values() for c in (name, f"{name} minus that of no layer")]
    return TextTable(f"{cell}: layers with a heavy tail", ("method", "seeds", *columns), rows)


def _out_of_distribution(outcomes: Outcomes) -> TextTable:
    rows = []
    for cell in main_cells(outcomes):
        if outcomes.study.cells[cell].ood is not None:
            heavy = outcomes.scores(cell, HEAVY, _OOD)
            for method in _methods(outcomes, cell):
                found = outcomes.scores(cell, method, _OOD)
                d = None if method == HEAVY else difference_by_seed(heavy, found)
                label = outcomes.label(method)
                rows.append([cell, label, str(len(found)), mean(found.values(), 1, 4)])
                rows[-1].append(interval(d, 1, 4))
    columns = ("area under the ROC curve", f"{outcomes.label(HEAVY)} minus it")
    return TextTable(
        "Images of another data set told apart by entropy",
        ("cell", "method", "seeds", *columns),
        rows,
    )


@styled
def draw_robustness(outcomes: Outcomes, folder: Path) -> list[Path]:
    """Write a picture for each question, with a column for each cell.

    Its rows are scores; in the picture of shifted images they are kinds of shifts. The picture for
    another data set has a single row.

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
        if question not in SHIFTS:
            rows: list[Row] = [(question, score, by_cell) for score in _SCORES]
            name = question.partition(",")[0].replace(" ", "-")
            drawn.append(save(_picture(outcomes, rows), folder / f"{name}.png"))
    shifts: list[Row] = [(kind, "accuracy", asked[kind]) for kind in SHIFTS if kind in asked]
    if shifts:
        drawn.append(save(_picture(outcomes, shifts), folder / "shifted-images.png"))
    by_layer = [cell for cell in cells if _methods(outcomes, cell, by_layer=True)]
    if by_layer:
        drawn.append(save(_layers(outcomes, by_layer), folder / "heavy-layers.png"))
    with_ood = [cell for cell in cells if outcomes.study.cells[cell].ood is not None]
    if with_ood:
        drawn.append(save(_told_apart(outcomes, with_ood), folder / "other-data.png"))
    return drawn


Row = tuple[str, str, Mapping[str, list[Condition]]]
"""A row of panels: the question, the name of the score, and the conditions by cell."""


def _panels(cells: list[str], rows: int, height: float) -> tuple[Any, list[list[Any]]]:
    """Return a figure, and its rows of panels, a column for each cell.

    Args:
        cells: The names of the cells, which are above the columns.
        rows: The number of rows.
        height: The height of a row, in inches.
    """
    figure, axes = new_panels(rows, len(cells), WIDEST, height * rows + 0.8)
    panels = list(axes)
    for ax, cell in zip(panels, cells, strict=False):  # those of the first row
        ax.set_title(cell)
    return figure, [panels[k * len(cells) :][: len(cells)] for k in range(rows)]


def _picture(outcomes: Outcomes, rows: list[Row]) -> Any:
    """Return a picture of scores by condition, a line for each method."""
    cells = list(rows[0][2])
    figure, panels = _panels(cells, len(rows), 2.2)
    methods: dict[str, None] = {}
    for axes, (question, score, by_cell) in zip(panels, rows, strict=True):
        for ax, cell in zip(axes, cells, strict=True):
            _draw_lines(ax, outcomes, cell, score, by_cell[cell])
            methods |= dict.fromkeys(_methods(outcomes, cell))
            ax.set_xlabel(question)
        axes[0].set_ylabel(_SCORES[score])
    method_legend(figure, {method: outcomes.label(method) for method in methods})
    return figure


def _draw_lines(
    ax: Any, outcomes: Outcomes, cell: str, score: str, conditions: list[Condition]
) -> None:
    for method in _methods(outcomes, cell):
        found = [condition.scores(method, score) for condition in conditions]
        places = [place for place, by_seed in enumerate(found) if by_seed]
        means = [fmean(found[place].values()) for place in places]
        colour, style = METHOD_LINES[method]
        ax.plot(places, means, color=colour, ls=style, marker="o", ms=3)
    ax.set_xticks(range(len(conditions)), [condition.label for condition in conditions])
    grid(ax)


def _layers(outcomes: Outcomes, cells: list[str]) -> Any:
    """Return a picture of what a heavy tail in some layers changes, with intervals over seeds."""
    figure, panels = _panels(cells, len(_SCORES), 1.6)
    for axes, score in zip(panels, _SCORES, strict=True):
        for ax, cell in zip(axes, cells, strict=True):
            heavy = [m for m in _methods(outcomes, cell, by_layer=True) if m != LIGHT_LAYERS]
            for place, method in enumerate(heavy):
                d = _from_light(outcomes, cell, method, score)
                if d is not None:
                    ax.plot([d.low, d.high], [place, place], color=BLUE)
                    ax.plot(d.mean, place, color=BLUE, marker="o", ms=4)
            labels = [outcomes.label(method).rpartition(" in ")[2] for method in heavy]
            _name_rows(ax, labels, shown=cell == cells[0])
            ax.axvline(0, color=GREY, lw=1)
            ax.set_xlabel(f"{_SCORES[score]} minus that without a heavy tail")
    return figure


def _name_rows(ax: Any, labels: list[str], *, shown: bool) -> None:
    """Give a panel a row for each label, from the top, whose texts are there if they are shown."""
    ax.set_yticks(range(len(labels)), labels if shown else [""] * len(labels))
    ax.set_ylim(len(labels) - 0.5, -0.5)
    grid(ax, "x")


def _told_apart(outcomes: Outcomes, cells: list[str]) -> Any:
    """Return a picture of how well entropy tells another data set apart.

    There is a dot for each seed, and a bar at their mean.
    """
    figure, (axes,) = _panels(cells, 1, 1.8)
    methods = list(dict.fromkeys(m for cell in cells for m in _methods(outcomes, cell)))
    for ax, cell in zip(axes, cells, strict=True):
        for place, method in enumerate(methods):
            found = list(outcomes.scores(cell, method, _OOD).values())
            if found:
                colour, _ = METHOD_LINES[method]
                ax.plot(found, [place] * len(found), color=colour, ls="", marker="o", ms=3)
                ax.plot(fmean(found), place, color=colour, marker="|", ms=14, mew=2)
        _name_rows(ax, [outcomes.label(m) for m in methods], shown=cell == cells[0])
        ax.set_xlabel("area under the ROC curve")
    return figure

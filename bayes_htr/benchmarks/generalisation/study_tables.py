"""Tables of a study of generalisation."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean, stdev

from bayes_htr.benchmarks.generalisation.claims import decay_rows, tail_rows
from bayes_htr.benchmarks.generalisation.methods import METHODS, TUNED
from bayes_htr.benchmarks.generalisation.outcomes import Outcomes
from bayes_htr.benchmarks.generalisation.paired import Difference
from bayes_htr.benchmarks.tables import NOTHING, TextTable

_SHAPES = {"alpha": ".2f", "lambda_max": ".2f", "stable_rank": ".1f"}
BASELINES = ("none", "weight_decay")


def study_tables(outcomes: Outcomes) -> list[TextTable]:
    """All tables: confirmatory comparisons first, then what is exploratory."""
    tables = [_confirmatory(outcomes)]
    for cell in outcomes.cells:
        tables.append(_scores(outcomes, cell))
        tables += _against(outcomes, cell)
    columns = (
        *("cell", "penalty", "variant", "accuracy, points", "p"),
        *("validation accuracy, %, at the strongest trial: plain penalty", "variant"),
    )
    title = "Exploratory: variants against over-regularising, less the plain penalty"
    tables.append(TextTable(title, columns, list(decay_rows(outcomes))))
    shown = ("cell", "over", "runs", "correlation of accuracy with alpha", "p")
    title = "Exploratory: a heavier tail (a lower alpha) and test accuracy, Spearman's correlation"
    tables.append(TextTable(title, shown, list(tail_rows(outcomes))))
    return [table for table in tables if table.rows]


def _confirmatory(outcomes: Outcomes) -> TextTable:
    rows = []
    for c in outcomes.confirmed():
        title = {"conventional": "conventional entrant"}.get(c.opponent, METHODS[c.second].label)
        rows.append(
            [
                c.cell,
                f"{METHODS[c.first].label} - {METHODS[c.second].label}",
                title,
                str(c.accuracy.pairs),
                interval(c.accuracy, 100, 2),
                interval(c.over_images, 100, 2, mean=False),
                f"{c.accuracy.p:.3f}",
                f"{c.adjusted:.3f}",
                interval(c.nll, 1, 3),
                interval(c.ece, 100, 2),
            ]
        )
    columns = (
        *("cell", "comparison", "opponent", "seeds", "accuracy, points [95 %]"),
        *("over seeds and images", "p", "p, Holm over cells", "NLL", "ECE, points"),
    )
    return TextTable("Confirmatory: the heavy-tailed entrant against others", columns, rows)


def _scores(outcomes: Outcomes, cell: str) -> TextTable:
    plain = _seconds(outcomes, cell, "none")
    entrants = outcomes.entrants(cell).values()
    rows = []
    for method in outcomes.methods(cell):
        found = outcomes.results(cell, method)
        label = METHODS[method].label + (" (entrant)" if method in entrants else "")
        if lost := outcomes.diverged(cell, method):
            label += f" ({lost} runs diverged)"
        tests = [
            _mean([r["test"][score] for r in found.values()], unit, digits)
            for score, unit, digits in (
                ("accuracy", 100, 2),
                ("nll", 1, 3),
                ("ece", 100, 2),
                ("brier", 1, 4),
            )
        ]
        shapes = [
            format(fmean(values), form)
            if (values := list(outcomes.shape(cell, method, c).values()))
            else NOTHING
            for c, form in _SHAPES.items()
        ]
        seconds = _seconds(outcomes, cell, method)
        rows.append(
            [
                label,
                METHODS[method].family,
                _chosen(outcomes, cell, method),
                str(len(found)),
                *tests,
                *shapes,
                f"{seconds / plain:.1f}" if plain else NOTHING,
            ]
        )
    columns = (
        *("method", "family", "chosen", "seeds", "accuracy, %", "NLL", "ECE, %", "Brier"),
        *("alpha", "lambda_max", "stable rank", "CPU time / plain"),
    )
    title = f"{cell}: test scores, means (standard deviations) over seeds"
    return TextTable(title, columns, rows)


def _against(outcomes: Outcomes, cell: str) -> Iterator[TextTable]:
    for baseline in BASELINES:
        rows = []
        for method in outcomes.methods(cell):
            accuracy = outcomes.compared(cell, method, baseline, "accuracy")
            if method == baseline or accuracy is None:
                continue
            others = [outcomes.compared(cell, method, baseline, s) for s in ("nll", "ece")]
            rows.append(
                [
                    METHODS[method].label,
                    METHODS[method].family,
                    interval(accuracy, 100, 2),
                    f"{accuracy.p:.3f}",
                    *(interval(d, u, k) for d, u, k in zip(others, (1, 100), (3, 2), strict=True)),
                ]
            )
        title = f"Exploratory, {cell}: less {METHODS[baseline].label}, paired by seed [95 %]"
        yield TextTable(title, ("method", "family", "accuracy, points", "p", "NLL", "ECE"), rows)


def interval(d: Difference | None, unit: float, digits: int, *, mean: bool = True) -> str:
    """A difference with its interval, in a unit."""
    if d is None:
        return NOTHING
    ends = f"[{unit * d.low:+.{digits}f}, {unit * d.high:+.{digits}f}]"
    return f"{unit * d.mean:+.{digits}f} {ends}" if mean else ends


def _mean(values: list[float], unit: float, digits: int) -> str:
    text = f"{unit * fmean(values):.{digits}f}"
    return f"{text} ({unit * stdev(values):.{digits}f})" if len(values) > 1 else text


def _seconds(outcomes: Outcomes, cell: str, method: str) -> float:
    found = [r["seconds"] for r in outcomes.results(cell, method).values()]
    return fmean(found) if found else 0.0


def _chosen(outcomes: Outcomes, cell: str, method: str) -> str:
    numbers = outcomes.chosen(cell, method)["numbers"]
    text = ", ".join(f"{name} {value:g}" for name, value in numbers.items())
    if method in TUNED:
        return text
    base = outcomes.base(cell)
    return f"lr {base['lr']:g}, {base['schedule']}, {base['epochs']} epochs"

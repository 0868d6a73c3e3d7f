"""Tables of a study of generalisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean, stdev

from benchmarks.common.tables import NOTHING, TextTable
from benchmarks.study.generalisation.claims import (
    STRENGTHS,
    by_strength,
    tail_rows,
    variant_differences,
)
from benchmarks.study.generalisation.methods import METHODS, TUNED, Numbers
from benchmarks.study.generalisation.outcomes import Outcomes
from benchmarks.study.generalisation.paired import Difference

_SHAPES = {"alpha": ".2f", "lambda_max": ".2f", "stable_rank": ".1f"}
_SCORES = (("accuracy", 100, 2), ("nll", 1, 3), ("ece", 100, 2), ("brier", 1, 4))
_MOST_MATRICES = 8
"""Of a network whose matrices are shown one by one; `layers.csv` has all."""
BASELINES = ("none", "weight_decay")


def study_tables(outcomes: Outcomes) -> list[TextTable]:
    """All tables: confirmatory comparisons first, then what is exploratory."""
    tables = [_confirmatory(outcomes)]
    for cell in outcomes.cells:
        tables.append(_scores(outcomes, cell))
        tables += _against(outcomes, cell)
        tables.append(_layers(outcomes, cell))
    columns = ("cell", "penalty", "variant", "accuracy, points [95 %]", "p")
    title = "Exploratory: variants less the plain penalty, each as it was chosen"
    rows = [
        [cell, METHODS[name].label, words, interval(d, 100, 2), f"{d.p:.3f}"]
        for cell, name, words, d in variant_differences(outcomes)
    ]
    tables.append(TextTable(title, columns, rows))
    tables += [_by_strength(outcomes, name) for name in STRENGTHS]
    shown = ("cell", "over", "points", "correlation with alpha", "95 %, methods resampled")
    title = "Exploratory: a heavier tail (a lower alpha) and test accuracy, Spearman's correlation"
    tables.append(TextTable(title, shown, list(tail_rows(outcomes))))
    tables.append(_progress(outcomes))
    return [table for table in tables if table.rows]


def _confirmatory(outcomes: Outcomes) -> TextTable:
    rows = []
    for c in outcomes.confirmed():
        title = {"conventional": "conventional entrant"}.get(c.opponent, METHODS[c.second].label)
        rows.append(
            [
                c.cell,
                title,
                f"{METHODS[c.first].label} - {METHODS[c.second].label}",
                str(c.accuracy.pairs),
                interval(c.accuracy, 100, 2),
                interval(c.over_images, 100, 2, mean=False),
                f"{c.accuracy.p:.3f}",
                f"{c.adjusted:.3f}",
                f"{c.adjusted_all:.3f}",
                c.verdict,
                interval(c.nll, 1, 3),
                interval(c.ece, 100, 2),
            ]
        )
    columns = (
        *("cell", "against", "comparison", "seeds", "accuracy, points [95 %]"),
        *("over seeds and images", "p", "p, Holm over cells", "p, Holm over all"),
        *("accuracy is", "NLL", "ECE, points"),
    )
    return TextTable("Confirmatory: the heavy-tailed entrant against others", columns, rows)


def _by_strength(outcomes: Outcomes, name: str) -> TextTable:
    rows = []
    for cell in outcomes.bases():
        plain = outcomes.validated(cell, "none", "accuracy", {})
        for label, found in by_strength(outcomes, cell, name).items():
            accuracies = [_percent(found.get(mu)) for mu in STRENGTHS[name]]
            rows.append([cell, label, _percent(plain), *accuracies])
    columns = ("cell", "form", "without", *(f"mu {mu:g}" for mu in STRENGTHS[name]))
    title = f"Exploratory: {METHODS[name].label}, accuracy of validation images by strength, %"
    return TextTable(title, columns, rows)


def _progress(outcomes: Outcomes) -> TextTable:
    rows = []
    for cell in outcomes.bases():
        trials, diverged = outcomes.trials(cell)
        methods = outcomes.methods(cell)
        seeds = sorted({len(outcomes.tested(cell, m)) for m in methods})
        entrants = [METHODS[m].label for m in outcomes.entrants(cell).values()]
        rows.append(
            [
                cell,
                " and ".join(entrants) or NOTHING,
                str(trials),
                str(diverged),
                str(len(methods)),
                "–".join(map(str, dict.fromkeys([seeds[0], seeds[-1]]))) if seeds else NOTHING,
                str(outcomes.images(cell) or NOTHING),
            ]
        )
    columns = (
        *("cell", "entrants", "trials", "diverged", "methods tested", "seeds", "test images"),
    )
    return TextTable("What is there", columns, rows)


def _layers(outcomes: Outcomes, cell: str) -> TextTable:
    """Each matrix of plain training, the opponents and the entrants."""
    rows = []
    for method in outcomes.shown(cell):
        found = [r["matrices"] for r in outcomes.results(cell, method).values()]
        for name in found[0] if found and len(found[0]) <= _MOST_MATRICES else ():
            values = [[m[name][c] for m in found if m[name][c] is not None] for c in _SHAPES]
            texts = [
                _mean(v, 1, int(form[1])) if v else NOTHING
                for v, form in zip(values, _SHAPES.values(), strict=True)
            ]
            rows.append([METHODS[method].label, name, *texts])
    title = f"Exploratory, {cell}: matrices at the end, means (standard deviations) over seeds"
    return TextTable(title, ("method", "matrix", "alpha", "lambda_max", "stable rank"), rows)


def _scores(outcomes: Outcomes, cell: str) -> TextTable:
    plain = _seconds(outcomes, cell, "none")
    entrants = outcomes.entrants(cell).values()
    rows = []
    for method in outcomes.methods(cell):
        label = METHODS[method].label + (" (entrant)" if method in entrants else "")
        if lost := outcomes.diverged(cell, method):
            label += f" ({lost} diverged: counted as chance)"
        tests = [
            _mean(list(outcomes.scores(cell, method, score).values()), unit, digits)
            for score, unit, digits in _SCORES
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
                str(len(outcomes.tested(cell, method))),
                *tests,
                *shapes,
                f"{seconds:.0f}" if seconds else NOTHING,
                f"{seconds / plain:.1f}" if seconds and plain else NOTHING,
            ]
        )
    columns = (
        *("method", "family", "chosen", "seeds", "accuracy, %", "NLL", "ECE, %", "Brier"),
        *("alpha", "lambda_max", "stable rank", "seconds of training", "seconds / plain"),
    )
    images = f"{outcomes.images(cell):,} test images"
    title = f"{cell}: {images}, means (standard deviations) over seeds"
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


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.2f}"


def _chosen(outcomes: Outcomes, cell: str, method: str) -> str:
    numbers = outcomes.chosen(cell, method)["numbers"]
    if method in TUNED:
        texts = [f"{name} {value:g}" for name, value in numbers.items()]
        texts[0] += _end_of_range(numbers, outcomes.tried(cell, method))
        return ", ".join(texts)
    base = outcomes.base(cell)
    return f"lr {base['lr']:g}, {base['schedule']}, {base['epochs']} epochs"


def _end_of_range(chosen: Numbers, trials: Sequence[Numbers]) -> str:
    """Whether the first number is the lowest or highest that was tried: more may be better."""
    first = next(iter(chosen))
    tried = [numbers[first] for numbers in trials]
    ends = {min(tried): " (lowest tried)", max(tried): " (highest tried)"} if tried else {}
    return ends.get(chosen[first], "")

"""Tables of the study of generalisation, and the two claims behind the method.

Do Decay and Lower Threshold avoid over-regularising? The tables compare them with the plain penalty
as each was chosen, and at each strength, of which the largest are too strong for the plain penalty.
Does a heavier tail go with better test accuracy? The rank correlation of `alpha` and accuracy says.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np
from scipy.stats import rankdata

from benchmarks.common.paired import Difference
from benchmarks.common.tables import NOTHING, TextTable, mean, number
from benchmarks.study.methods import ENDS, GENERALISATION
from benchmarks.study.outcomes import Outcomes

VARIANTS = {"power": "power decay", "exp": "exponential decay", "above": "lower threshold"}
FORMS = {"": "plain penalty", **VARIANTS}
"""All forms of a penalty, by the ends of the names of methods."""
STRENGTHS = {name: [trial["mu"] for trial in GENERALISATION[name].trials] for name in ENDS}
"""The strengths at which a plain penalty is tried; those of its variants are among them."""
BASELINES = ("none", "weight_decay")
_SHAPES = {"alpha": 2, "lambda_max": 2, "stable_rank": 1}
"""Columns of matrices, with their decimal places."""
_SCORES = (("accuracy", 100, 2), ("nll", 1, 3), ("ece", 100, 2), ("brier", 1, 4))
"""Scores with their units and decimal places."""
_MOST_MATRICES = 8
"""A network with more matrices has no table of them; `layers.csv` has all."""
_RESAMPLES = 1000

Points = list[tuple[float, float]]


def generalisation_tables(outcomes: Outcomes) -> list[TextTable]:
    """Return all tables: confirmatory comparisons first, then what is exploratory."""
    tables = [_confirmatory(outcomes)]
    for cell in outcomes.cells:
        tables.append(_scores(outcomes, cell))
        tables += [_against(outcomes, cell, baseline) for baseline in BASELINES]
        tables.append(_layers(outcomes, cell))
    tables.append(_variants(outcomes))
    tables += [_by_strength(outcomes, name) for name in STRENGTHS]
    tables += [_tails(outcomes), _progress(outcomes)]
    return [table for table in tables if table.rows]


def _confirmatory(outcomes: Outcomes) -> TextTable:
    rows = [
        [
            c.cell,
            "conventional entrant" if c.opponent == "conventional" else outcomes.label(c.second),
            f"{outcomes.label(c.first)} - {outcomes.label(c.second)}",
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
        for c in outcomes.confirmed()
    ]
    columns = (
        *("cell", "against", "comparison", "seeds", "accuracy, points [95 %]"),
        *("over seeds and images", "p", "p, Holm over cells", "p, Holm over all"),
        *("accuracy is", "NLL", "ECE, points"),
    )
    return TextTable("Confirmatory: the heavy-tailed entrant against others", columns, rows)


def _scores(outcomes: Outcomes, cell: str) -> TextTable:
    plain = outcomes.seconds(cell, "none")
    entrants = outcomes.entrants(cell).values()
    rows = []
    for method in outcomes.methods(cell):
        label = outcomes.label(method) + (" (entrant)" if method in entrants else "")
        if lost := outcomes.diverged(cell, method):
            label += f" ({lost} diverged: counted as chance)"
        shapes = [list(outcomes.shape(cell, method, column).values()) for column in _SHAPES]
        seconds = outcomes.seconds(cell, method)
        rows.append(
            [
                label,
                outcomes.study.methods[method].family,
                _chosen(outcomes, cell, method),
                str(len(outcomes.tested(cell, method))),
                *(
                    mean(outcomes.scores(cell, method, score).values(), unit, digits)
                    for score, unit, digits in _SCORES
                ),
                *(
                    number(fmean(values) if values else None, f".{digits}f")
                    for values, digits in zip(shapes, _SHAPES.values(), strict=True)
                ),
                number(seconds or None, ".0f"),
                number(seconds / plain if seconds and plain else None, ".1f"),
            ]
        )
    columns = (
        *("method", "family", "chosen", "seeds", "accuracy, %", "NLL", "ECE, %", "Brier"),
        *("alpha", "lambda_max", "stable rank", "seconds of training", "seconds / plain"),
    )
    images = f"{outcomes.images(cell):,} test images"
    title = f"{cell}: {images}, means (standard deviations) over seeds"
    return TextTable(title, columns, rows)


def _chosen(outcomes: Outcomes, cell: str, method: str) -> str:
    numbers = outcomes.chosen(cell, method)
    if outcomes.study.methods[method].tuned:
        texts = [f"{name} {value:g}" for name, value in numbers.items()]
        # At the end of the range that was tried, more might have been better.
        first = next(iter(numbers))
        tried = [trial[first] for trial in outcomes.tried(cell, method)]
        ends = {min(tried): " (lowest tried)", max(tried): " (highest tried)"} if tried else {}
        texts[0] += ends.get(numbers[first], "")
        return ", ".join(texts)
    base = outcomes.base(cell)
    return f"lr {base['lr']:g}, {base['schedule']}, {base['epochs']} epochs"


def _against(outcomes: Outcomes, cell: str, baseline: str) -> TextTable:
    rows = []
    for method in outcomes.methods(cell):
        accuracy = outcomes.compared(cell, method, baseline, "accuracy")
        if method == baseline or accuracy is None:
            continue
        nll, ece = (outcomes.compared(cell, method, baseline, s) for s in ("nll", "ece"))
        rows.append(
            [
                outcomes.label(method),
                outcomes.study.methods[method].family,
                interval(accuracy, 100, 2),
                f"{accuracy.p:.3f}",
                interval(nll, 1, 3),
                interval(ece, 100, 2),
            ]
        )
    title = (
        f"Exploratory, {cell}: every method minus {outcomes.label(baseline)}, paired by seed [95 %]"
    )
    return TextTable(title, ("method", "family", "accuracy, points", "p", "NLL", "ECE"), rows)


def _layers(outcomes: Outcomes, cell: str) -> TextTable:
    """Return each matrix of plain training, the opponents and the entrants."""
    rows = []
    for method in outcomes.shown(cell):
        found = [r["matrices"] for r in outcomes.results(cell, method).values()]
        for name in found[0] if found and len(found[0]) <= _MOST_MATRICES else ():
            values = [[m[name][c] for m in found if m[name][c] is not None] for c in _SHAPES]
            texts = [
                mean(own, 1, digits) if own else NOTHING
                for own, digits in zip(values, _SHAPES.values(), strict=True)
            ]
            rows.append([outcomes.label(method), name, *texts])
    title = f"Exploratory, {cell}: matrices at the end, means (standard deviations) over seeds"
    return TextTable(title, ("method", "matrix", "alpha", "lambda_max", "stable rank"), rows)


def _variants(outcomes: Outcomes) -> TextTable:
    compared = [
        (cell, name, words, outcomes.compared(cell, f"{name}_{end}", name, "accuracy"))
        for cell in outcomes.cells
        for name in ENDS
        for end, words in VARIANTS.items()
    ]
    rows = [
        [cell, outcomes.label(name), words, interval(d, 100, 2), f"{d.p:.3f}"]
        for cell, name, words, d in compared
        if d is not None
    ]
    columns = ("cell", "penalty", "variant", "accuracy, points [95 %]", "p")
    title = "Exploratory: variants minus the plain penalty, each as it was chosen"
    return TextTable(title, columns, rows)


def _by_strength(outcomes: Outcomes, name: str) -> TextTable:
    rows = []
    for cell in outcomes.cells_with_base:
        plain = outcomes.validated(cell, "none", "accuracy", {})
        for label, found in by_strength(outcomes, cell, name).items():
            accuracies = (plain, *(found.get(mu) for mu in STRENGTHS[name]))
            rows.append([cell, label, *(_percent(value) for value in accuracies)])
    columns = ("cell", "form", "without", *(f"mu {mu:g}" for mu in STRENGTHS[name]))
    title = f"Exploratory: {outcomes.label(name)}, accuracy of validation images by strength, %"
    return TextTable(title, columns, rows)


def by_strength(outcomes: Outcomes, cell: str, name: str) -> dict[str, dict[float, float]]:
    """Accuracy of validation images by form and strength, of a penalty of `ENDS`."""
    found: dict[str, dict[float, float]] = {}
    for end, words in FORMS.items():
        method = f"{name}_{end}" if end else name
        for trial in sorted(outcomes.tried(cell, method), key=lambda trial: trial.get("share", 0)):
            accuracy = outcomes.validated(cell, method, "accuracy", trial)
            label = f"{words}, share {trial['share']:g}" if "share" in trial else words
            if accuracy is not None:
                found.setdefault(label, {})[trial["mu"]] = accuracy
    return found


def _tails(outcomes: Outcomes) -> TextTable:
    rows = []
    for cell in outcomes.cells:
        methods = [points for points in alpha_and_accuracy(outcomes, cell).values() if points]
        if len(methods) < 4:
            continue
        means = [[(fmean(x), fmean(y))] for x, y in (zip(*p, strict=True) for p in methods)]
        within = [
            [(x - mx, y - my) for x, y in points]
            for points, [(mx, my)] in zip(methods, means, strict=True)
        ]
        for over, groups in (
            ("means of methods", means),
            ("runs", methods),
            ("runs, minus the means of their methods", within),
        ):
            if (found := correlation(groups)) is not None:
                rho, low, high = found
                count = str(sum(map(len, groups)))
                rows.append([cell, over, count, f"{rho:+.2f}", f"[{low:+.2f}, {high:+.2f}]"])
    columns = ("cell", "over", "points", "correlation with alpha", "95 %, methods resampled")
    title = "Exploratory: a heavier tail (a lower alpha) and test accuracy, Spearman's correlation"
    return TextTable(title, columns, rows)


def alpha_and_accuracy(outcomes: Outcomes, cell: str) -> dict[str, Points]:
    """By method, the mean alpha of the matrices and the test accuracy of each seed."""
    found = {}
    for method in outcomes.methods(cell):
        if outcomes.study.methods[method].members > 1:
            continue  # the matrices are those of one network of several
        alphas = outcomes.shape(cell, method, "alpha")
        accuracies = outcomes.scores(cell, method, "accuracy")
        found[method] = [(alpha, accuracies[seed]) for seed, alpha in alphas.items()]
    return found


def correlation(groups: Sequence[Points]) -> tuple[float, float, float] | None:
    """Spearman's correlation of the points of all groups, with a 95 % interval.

    Runs of one method are not independent, so whole groups are resampled.

    Returns:
        The correlation and the ends of the interval, or `None` if all values are the same.
    """
    points = [np.asarray(group) for group in groups]
    rng = np.random.default_rng(0)
    rho = _spearman(np.concatenate(points))
    chosen = rng.integers(0, len(points), (_RESAMPLES, len(points)))
    found = [_spearman(np.concatenate([points[i] for i in row])) for row in chosen]
    if np.isnan(rho):
        return None
    low, high = np.nanpercentile(found, (2.5, 97.5))
    return rho, float(low), float(high)


def _spearman(points: np.ndarray) -> float:
    x, y = rankdata(points, axis=0).T
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _progress(outcomes: Outcomes) -> TextTable:
    rows = []
    for cell in outcomes.cells_with_base:
        trials = outcomes.trials(cell)
        methods = outcomes.methods(cell)
        seeds = sorted({len(outcomes.tested(cell, m)) for m in methods})
        entrants = [outcomes.label(m) for m in outcomes.entrants(cell).values()]
        rows.append(
            [
                cell,
                " and ".join(entrants) or NOTHING,
                str(len(trials)),
                str(sum("diverged" in result for result in trials)),
                str(len(methods)),
                "–".join(map(str, dict.fromkeys([seeds[0], seeds[-1]]))) if seeds else NOTHING,
                str(outcomes.images(cell) or NOTHING),
            ]
        )
    columns = (
        *("cell", "entrants", "trials", "diverged", "methods tested", "seeds", "test images"),
    )
    return TextTable("What is there", columns, rows)


def interval(d: Difference | None, unit: float, digits: int, *, mean: bool = True) -> str:
    """Return a difference with its interval, in a unit."""
    if d is None:
        return NOTHING
    ends = f"[{unit * d.low:+.{digits}f}, {unit * d.high:+.{digits}f}]"
    return f"{unit * d.mean:+.{digits}f} {ends}" if mean else ends


def _percent(value: float | None) -> str:
    return number(None if value is None else 100 * value, ".2f")

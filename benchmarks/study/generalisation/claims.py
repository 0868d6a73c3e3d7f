"""The two claims behind the method, as the runs of a study answer them.

Whether Decay and Lower Threshold avoid over-regularising: how they do against the plain penalty as
each was chosen, and at each strength, of which the largest are too strong for the plain penalty.
Whether a heavier tail goes with better test accuracy: the rank correlation of `alpha` and accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

import numpy as np
from scipy.stats import rankdata

from benchmarks.study.generalisation.methods import ENDS, METHODS
from benchmarks.study.generalisation.outcomes import Outcomes
from benchmarks.study.generalisation.paired import Difference

VARIANTS = {
    "power": "power decay",
    "exp": "exponential decay",
    "above": "lower threshold",
}
FORMS = {"": "plain penalty", **VARIANTS}
"""All forms of a penalty, by the ends of the methods' names."""
_RESAMPLES = 1000

Points = list[tuple[float, float]]


def variant_differences(outcomes: Outcomes) -> Iterator[tuple[str, str, str, Difference]]:
    """Cell, penalty, variant, and the variant's test accuracy less the plain penalty's."""
    for cell in outcomes.cells:
        for name in ENDS:
            for suffix, words in VARIANTS.items():
                d = outcomes.compared(cell, f"{name}_{suffix}", name, "accuracy")
                if d is not None:
                    yield cell, name, words, d


STRENGTHS = {name: [trial["mu"] for trial in METHODS[name].trials] for name in ENDS}
"""The strengths at which a plain penalty is tried; those of its variants are among them."""


def by_strength(outcomes: Outcomes, cell: str, name: str) -> dict[str, dict[float, float]]:
    """Accuracy of validation images by strength, for a penalty of `ENDS` and its variants."""
    found: dict[str, dict[float, float]] = {}
    for suffix, words in FORMS.items():
        method = f"{name}_{suffix}" if suffix else name
        for trial in sorted(outcomes.tried(cell, method), key=lambda trial: trial.get("share", 0)):
            accuracy = outcomes.validated(cell, method, "accuracy", trial)
            label = f"{words}, share {trial['share']:g}" if "share" in trial else words
            if accuracy is not None:
                found.setdefault(label, {})[trial["mu"]] = accuracy
    return found


def tail_rows(outcomes: Outcomes) -> Iterator[list[str]]:
    """Rows: cell, what the correlation is over, how many, Spearman's correlation, interval."""
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
            ("runs, less the means of their methods", within),
        ):
            found = correlation(groups)
            if found is not None:
                rho, low, high = found
                count = str(sum(map(len, groups)))
                yield [cell, over, count, f"{rho:+.2f}", f"[{low:+.2f}, {high:+.2f}]"]


def correlation(groups: Sequence[Points]) -> tuple[float, float, float] | None:
    """Spearman's correlation of the points of all groups, with a 95 % interval.

    Runs of one method are not independent, so whole groups are resampled.

    Returns:
        The correlation and the ends of the interval; none where values are all the same.
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


def alpha_and_accuracy(outcomes: Outcomes, cell: str) -> dict[str, Points]:
    """By method, for each seed the mean alpha of the matrices and the test accuracy."""
    found = {}
    for method in outcomes.methods(cell):
        if METHODS[method].members > 1:
            continue  # one network of several
        alphas = outcomes.shape(cell, method, "alpha")
        accuracies = outcomes.scores(cell, method, "accuracy")
        found[method] = [(alpha, accuracies[seed]) for seed, alpha in alphas.items()]
    return found

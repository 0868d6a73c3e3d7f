"""The two claims behind the method, as the runs of a study answer them.

Whether Decay and Lower Threshold avoid over-regularising: how they do against the plain penalty as
each was chosen, and at the strongest trial, where the plain penalty is too strong. Whether a
heavier tail goes with better test accuracy: the rank correlation of `alpha` with accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from scipy.stats import spearmanr

from bayes_htr.benchmarks.generalisation.methods import ENDS, METHODS
from bayes_htr.benchmarks.generalisation.outcomes import Outcomes
from bayes_htr.benchmarks.tables import NOTHING

VARIANTS = {
    "power": "power decay",
    "exp": "exponential decay",
    "above": "lower threshold",
}


def decay_rows(outcomes: Outcomes) -> Iterator[list[str]]:
    """Rows: cell, penalty, variant, difference in test accuracy, p, validation accuracies."""
    for cell in outcomes.cells:
        for name in ENDS:
            for suffix, words in VARIANTS.items():
                d = outcomes.compared(cell, f"{name}_{suffix}", name, "accuracy")
                if d is None:
                    continue
                strongest = [
                    outcomes.validated(cell, method, "accuracy", _strongest(method))
                    for method in (name, f"{name}_{suffix}")
                ]
                ends = f"[{100 * d.low:+.2f}, {100 * d.high:+.2f}]"
                yield [
                    cell,
                    METHODS[name].label,
                    words,
                    f"{100 * d.mean:+.2f} {ends}",
                    f"{d.p:.3f}",
                    *(NOTHING if s is None else f"{100 * s:.2f}" for s in strongest),
                ]


def _strongest(method: str) -> dict[str, float]:
    return dict(max(METHODS[method].trials, key=lambda numbers: numbers["mu"]))


def tail_rows(outcomes: Outcomes) -> Iterator[list[str]]:
    """Rows: cell, what the correlation is over, how many runs, Spearman's correlation, p."""
    for cell in outcomes.cells:
        points = alpha_and_accuracy(outcomes, cell)
        means = [tuple(map(fmean, zip(*own, strict=True))) for own in points.values() if own]
        every = [point for own in points.values() for point in own]
        for over, values in (("runs", every), ("means of methods", means)):
            if len(values) > 3:
                found = spearmanr(*zip(*values, strict=True))
                numbers = [f"{found.statistic:+.2f}", f"{found.pvalue:.3f}"]
                yield [cell, over, str(len(values)), *numbers]


def alpha_and_accuracy(outcomes: Outcomes, cell: str) -> dict[str, list[tuple[float, float]]]:
    """By method, for each seed the mean alpha of the matrices and the test accuracy."""
    found = {}
    for method in outcomes.methods(cell):
        if METHODS[method].members > 1:
            continue  # one network of several
        alphas = outcomes.shape(cell, method, "alpha")
        accuracies = outcomes.scores(cell, method, "accuracy")
        found[method] = [(alpha, accuracies[seed]) for seed, alpha in alphas.items()]
    return found

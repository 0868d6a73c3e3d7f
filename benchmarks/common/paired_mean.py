"""The mean of paired differences with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from scipy.stats import t


def paired_difference(
    first: Sequence[float], second: Sequence[float], level: float = 0.95
) -> dict[str, float | int | None]:
    """Mean of `first - second` with Student's interval.

    Args:
        first: A value for each pair.
        second: The other value of the same pairs.
        level: Of the interval.

    Returns:
        `mean`, `low`, `high`, `pairs`; without ends where there is one pair.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    n, mean = len(differences), fmean(differences)
    if n < 2:
        return {"mean": mean, "low": None, "high": None, "pairs": n}
    half = float(t.ppf(0.5 + level / 2, n - 1)) * stdev(differences) / math.sqrt(n)
    return {"mean": mean, "low": mean - half, "high": mean + half, "pairs": n}

"""The summary of a network: means of columns over its matrices, and counts of verdicts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bayes_htr.analysis.verdict import KINDS, Kind

MEANS = (
    *("log_norm", "log_spectral_norm", "alpha", "alpha_weighted", "log_alpha_norm"),
    *("stable_rank", "mp_softrank"),
)
"""The columns whose means are those of WeightWatcher's `get_summary`, under the same names."""


def summarise(rows: Sequence[tuple[dict[str, Any], Kind]]) -> dict[str, float | int]:
    """Summarise rows of a report, each with the kind of its verdict.

    Returns:
        As `SpectraReport.summary`.
    """
    everything = [row for row, _ in rows]
    behind = [row for row, kind in rows if kind.filled]
    alphas = [row.get("alpha") for row in behind]
    return {
        "matrices": len(rows),
        **{name: _over((r.get(name) for r in everything), statistics.fmean) for name in MEANS},
        "alpha_median": _over((row.get("alpha") for row in everything), statistics.median),
        "power_laws": len(behind),
        "power_law_alpha_mean": _over(alphas, statistics.fmean),
        "power_law_alpha_median": _over(alphas, statistics.median),
        "power_law_alpha_weighted": _over(
            (row.get("alpha_weighted") for row in behind), statistics.fmean
        ),
        **{f"num_{kind.key}": sum(k is kind for _, k in rows) for kind in KINDS},
    }


def _over(values: Iterable[float | None], statistic: Callable[[list[float]], float]) -> float:
    """A statistic of the finite values; NaN without any."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return statistic(finite) if finite else math.nan

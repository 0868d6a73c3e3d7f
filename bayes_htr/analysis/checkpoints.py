"""Two checkpoints of one network side by side, as numbers.

The interval of the difference of two exponents comes from the intervals of both (MOVER): with
estimates a, b and intervals (l, u), the ends of `b - a` are
`b - a - sqrt((b - l_b)^2 + (u_a - a)^2)` and `b - a + sqrt((u_b - b)^2 + (a - l_a)^2)`. It takes
the two for independent. Checkpoints of one run are not, and change less than chance would let them:
the interval is then too wide.

Reference: Zou & Donner (2008), Statistics in Medicine 27(10).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bayes_htr.analysis.columns import interval_ends
from bayes_htr.analysis.measured import MeasuredSpectra
from bayes_htr.analysis.records import Records
from bayes_htr.analysis.verdict import DOUBTFUL, RANDOM_LIKE, UNTOLD, Verdict
from bayes_htr.errors import DataError

_DOUBTS = (RANDOM_LIKE, DOUBTFUL, UNTOLD)


@dataclass(frozen=True)
class PairedSpectra(Records):
    """The rows of a `CheckpointComparison`, which says what they are, and both networks."""

    first: MeasuredSpectra = field(repr=False)
    second: MeasuredSpectra = field(repr=False)
    unmatched: tuple[str, ...] = ()

    title: ClassVar[str] = "Spectra of two networks"
    shown: ClassVar[tuple[str, ...]] = (
        "name",
        "alpha",
        "other_alpha",
        "difference",
        "difference_low",
        "difference_high",
        "lambda_max_ratio",
        "stable_rank",
        "other_stable_rank",
        "verdict",
    )
    headings: ClassVar[dict[str, str]] = {
        "other_alpha": "second",
        "difference_low": "low",
        "difference_high": "high",
        "lambda_max_ratio": "ratio of lambda_max",
        "stable_rank": "stable rank",
        "other_stable_rank": "second",
    }

    def sides(self) -> tuple[tuple[str, list[dict[str, Any]]], tuple[str, list[dict[str, Any]]]]:
        """Label and rows of each network, of the matrices that are in both, in the same order.

        Networks of one label are told apart by their order.
        """
        names = [row["name"] for row in self.rows]
        first, second = (
            [{row["name"]: row for row in report.rows}[name] for name in names]
            for report in (self.first, self.second)
        )
        labels = self.first.label, self.second.label
        if labels[0] == labels[1]:
            labels = f"{labels[0]}, first", f"{labels[1]}, second"
        return (labels[0], first), (labels[1], second)

    def check(self, name: str) -> None:
        """Whether a matrix is in both.

        Raises:
            ValueError: It is not.
        """
        names = [row["name"] for row in self.rows]
        if name not in names:
            raise ValueError(f"no matrix {name!r} in both networks; there are {names[:8]}, ...")


def compare_rows(
    rows: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The rows of a comparison, and the names that are in one report alone.

    Raises:
        DataError: No matrix of one name and shape is in both.
    """
    there = {_key(row): row for row in others}
    matched = [(row, there[_key(row)]) for row in rows if _key(row) in there]
    if not matched:
        names = [", ".join(str(r["name"]) for r in part[:5]) for part in (rows, others)]
        raise DataError(
            f"the networks share no matrix of one name and shape (first: {names[0]}; second: "
            f"{names[1]}); compare checkpoints of one network"
        )
    both = {_key(row) for row, _ in matched}
    unmatched = dict.fromkeys(str(r["name"]) for r in (*rows, *others) if _key(r) not in both)
    return [_row(a, b) for a, b in matched], tuple(unmatched)


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("name", "N", "M", "rf"))


def _row(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    a, b = first["alpha"], second["alpha"]
    low, high = _difference(first, second)
    return {
        "name": first["name"],
        "N": first["N"],
        "M": first["M"],
        "alpha": a,
        "other_alpha": b,
        "difference": b - a,
        "difference_low": low,
        "difference_high": high,
        "lambda_max": first["lambda_max"],
        "other_lambda_max": second["lambda_max"],
        "lambda_max_ratio": second["lambda_max"] / first["lambda_max"]
        if first["lambda_max"] > 0
        else math.nan,
        "stable_rank": first["stable_rank"],
        "other_stable_rank": second["stable_rank"],
        "verdict": _verdict(low, high, first["verdict"], second["verdict"]),
        "first_verdict": first["verdict"],
        "other_verdict": second["verdict"],
    }


def _difference(first: dict[str, Any], second: dict[str, Any]) -> tuple[float, float]:
    a, b = first["alpha"], second["alpha"]
    (low_a, high_a), (low_b, high_b) = interval_ends(first), interval_ends(second)
    return (
        b - a - math.hypot(_reach(b - low_b), _reach(high_a - a)),
        b - a + math.hypot(_reach(high_b - b), _reach(a - low_a)),
    )


def _reach(length: float) -> float:
    """From an estimate to the end of its interval: nothing where it lies beyond that."""
    return length if math.isnan(length) else max(length, 0.0)


def _verdict(low: float, high: float, *verdicts: Verdict) -> str:
    if math.isnan(low) or math.isnan(high):
        return "no exponent in one of them"
    doubt = ", if these are power laws" if any(v.kind in _DOUBTS for v in verdicts) else ""
    if low <= 0 <= high:
        return f"no difference to tell{doubt}"
    return f"{'heavier' if high < 0 else 'lighter'}-tailed in the second{doubt}"

"""Two checkpoints of one network side by side.

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
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bayes_htr.analysis.columns import interval_ends
from bayes_htr.analysis.records import Records
from bayes_htr.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bayes_htr.analysis.report_table import SpectraReport

_DOUBTS = ("like a random", "power law", "too few")


@dataclass(frozen=True)
class CheckpointComparison(Records):
    """A row for each matrix that is in both networks with the same shape.

    Attributes:
        rows: `alpha` of both and their `difference` (second less first) with its interval, the
            ratio of the largest eigenvalues, both stable ranks, and a verdict.
        first: The report of the first.
        second: That of the second.
        unmatched: Names that are in one alone, or in another shape.
    """

    first: SpectraReport = field(repr=False)
    second: SpectraReport = field(repr=False)
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

    def plot(self, name: str | None = None, *, path: str | PathLike[str] | None = None) -> Figure:
        """Exponents and largest eigenvalues of all matrices, or both ESDs of one.

        Args:
            name: The matrix; all by default.
            path: If given, where the figure is saved.

        Raises:
            ValueError: No such matrix in both.
            ImportError: matplotlib is not installed.
        """
        from bayes_htr.analysis.comparison_plots import plot_comparison, plot_pair

        if name is None:
            return plot_comparison(self, path=path)
        return plot_pair(self, name, path=path)

    def to_html(self, path: str | PathLike[str]) -> Path:
        """Write the report of the first network with the comparison in it, as one HTML file.

        Raises:
            OutputError: It cannot be written.
        """
        from bayes_htr.analysis.page import write_page

        return write_page(path, self.first, self)


def compare_reports(first: SpectraReport, second: SpectraReport) -> CheckpointComparison:
    """Compare two reports.

    Raises:
        DataError: No matrix of one name and shape is in both.
        ValueError: Intervals of different levels.
    """
    levels = [report.settings.get("level") for report in (first, second)]
    if levels[0] != levels[1]:
        raise ValueError(
            f"the intervals are of level={levels[0]} and level={levels[1]}, and a difference has "
            "one; analyse both networks with the same"
        )
    rows, unmatched = compare_rows(first.rows, second.rows)
    return CheckpointComparison(rows, first, second, unmatched)


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


def _verdict(low: float, high: float, *verdicts: str) -> str:
    if math.isnan(low) or math.isnan(high):
        return "no tail in one of them"
    doubt = ", if these are power laws" if any(v.startswith(_DOUBTS) for v in verdicts) else ""
    if low <= 0 <= high:
        return f"no difference to tell{doubt}"
    return f"{'heavier' if high < 0 else 'lighter'}-tailed in the second{doubt}"

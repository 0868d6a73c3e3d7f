"""`SpectraReport`, which `analyze` returns, and `CheckpointComparison` of two such reports.

**The interval of a difference** of two exponents comes from the intervals of both (MOVER). With
estimates a, b and intervals (l, u), the ends of the interval of `b - a` are
`b - a - sqrt((b - l_b)^2 + (u_a - a)^2)` and `b - a + sqrt((u_b - b)^2 + (a - l_a)^2)`. This takes
the two estimates as independent. Checkpoints of one run are dependent, and differ less than
independent networks, so that the interval is too wide for them.

Exponents are compared only if neither report speaks against them. A matrix that is like a random
one, that has too small a tail, or whose power law is rejected or doubtful has no exponent to
compare. Exponents that were not tested are compared.

References:
    Zou & Donner (2008), Statistics in Medicine 27(10).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rich.table import Table

from bayes_htr._plotting import save
from bayes_htr._version import __version__
from bayes_htr.analysis.bulk import MarchenkoPasturFit
from bayes_htr.analysis.columns import Row
from bayes_htr.analysis.esd import Array
from bayes_htr.analysis.matrix import MatrixSpectrum
from bayes_htr.analysis.page import page
from bayes_htr.analysis.plots import plot_comparison, plot_matrix, plot_network, plot_pair
from bayes_htr.analysis.tables import Records, write_text
from bayes_htr.analysis.verdict import DOUBTFUL, KINDS, RANDOM_LIKE, UNTOLD, Kind
from bayes_htr.errors import DataError
from bayes_htr.tails import PowerlawFit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DOUBTS = (RANDOM_LIKE, DOUBTFUL, UNTOLD)

_MEANS = (
    *("log_norm", "log_spectral_norm", "alpha", "alpha_weighted", "log_alpha_norm"),
    *("stable_rank", "mp_softrank"),
)
"""The columns whose means are those of WeightWatcher's `get_summary`, under the same names."""


_ALPHA = ("name", "alpha", "interval_low", "interval_high", "searched_low", "searched_high")


@dataclass(frozen=True)
class SpectraReport(Records):
    """The spectra of a network, a row per matrix; `print` shows the most important columns.

    Attributes:
        rows: One dict per matrix; the columns are those of `bayes_htr.analysis.COLUMNS`.
        label: The network.
        matrices: The analysed spectrum of each matrix by name.
        skipped: Tensors of two or more dimensions that are not in the report, with the reason.
        settings: The options with which the report was made.
    """

    rows: list[Row] = field(init=False)
    label: str
    matrices: dict[str, MatrixSpectrum] = field(repr=False)
    skipped: dict[str, str]
    settings: dict[str, Any]

    title: ClassVar[str] = "Spectra"
    headings: ClassVar[dict[str, str]] = {
        "name": "name",
        "N": "N",
        "M": "M",
        "alpha": "alpha",
        "interval_low": "low",
        "interval_high": "high",
        "searched_low": "low",
        "searched_high": "high",
        "p_value": "p",
        "num_pl_spikes": "in tail",
        "stable_rank": "stable rank",
        "num_spikes": "spikes",
        "mp_D": "bulk D",
        "verdict": "verdict",
    }
    narrower: ClassVar[tuple[tuple[str, ...], ...]] = (
        (*_ALPHA, "p_value", "num_pl_spikes", "verdict"),
        (*_ALPHA, "num_pl_spikes", "verdict"),
        (*_ALPHA, "verdict"),
        ("name", "alpha", "verdict"),
        ("name", "verdict"),
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", [matrix.row for matrix in self.matrices.values()])

    @property
    def superseded(self) -> tuple[str, ...]:
        """The columns of the interval for a known xmin, if there is one over the choice of xmin."""
        return ("interval_low", "interval_high") if "searched_low" in self.columns else ()

    @property
    def spectra(self) -> dict[str, Array]:
        """`(K,)` eigenvalues of each matrix by name, ascending, in float64."""
        return {name: matrix.eigenvalues for name, matrix in self.matrices.items()}

    @property
    def fits(self) -> dict[str, PowerlawFit | None]:
        """The tail fit of each matrix by name, or `None` where there is no tail."""
        return {name: matrix.fit for name, matrix in self.matrices.items()}

    @property
    def bulks(self) -> dict[str, MarchenkoPasturFit | None]:
        """The Marchenko-Pastur bulk of each matrix by name, or `None` where none fits."""
        return {name: matrix.bulk for name, matrix in self.matrices.items()}

    def matrix(self, name: str) -> MatrixSpectrum:
        """Return the analysed spectrum of one matrix.

        Raises:
            ValueError: The report has no such matrix.
        """
        if name not in self.matrices:
            known = ", ".join(list(self.matrices)[:8])
            raise ValueError(f"no matrix {name!r} in this report; there are {known}, ...")
        return self.matrices[name]

    def summary(self) -> dict[str, float | int]:
        """Summarise the network: means over matrices, and counts of verdicts.

        Returns:
            `matrices`, the number of rows; the means of `log_norm`, `log_spectral_norm`, `alpha`,
            `alpha_weighted`, `log_alpha_norm`, `stable_rank` and `mp_softrank` over all matrices
            where they are defined, as WeightWatcher's `get_summary`, and `alpha_median`;
            `power_laws`, the number of matrices whose exponents the report stands behind, with
            `power_law_alpha_mean`, `power_law_alpha_median` and `power_law_alpha_weighted` of
            these alone; and how many matrices have each kind of verdict (`num_heavy`, ...). What
            is not defined is NaN.
        """
        return _summary([(matrix.row, matrix.kind) for matrix in self.matrices.values()])

    def table(self, columns: Sequence[str] | None = None, *, whole_words: bool = False) -> Table:
        """Make a table for the terminal, with the intervals over xmin if there are any.

        Args:
            columns: The columns; the most important ones by default.
            whole_words: Whether words and numbers are kept whole, except for names of matrices.

        Raises:
            ValueError: A column does not exist.
        """
        if columns is None:
            columns = [c for c in self.headings if c in self.columns and c not in self.superseded]
        return super().table(columns, whole_words=whole_words)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, in which numbers that are not finite are `None`."""
        return {
            **super().to_dict(),
            "network": self.label,
            "version": __version__,
            "settings": self.settings,
            "skipped": self.skipped,
        }

    def compare(self, other: SpectraReport) -> CheckpointComparison:
        """Compare the matrices of two networks.

        Raises:
            DataError: The networks share no matrix with the same name and shape, or `other` is not
                a report.
            ValueError: The intervals have different levels.
        """
        if not isinstance(other, SpectraReport):
            raise DataError(
                f"compare takes the report of the other network, not a {type(other).__name__}; "
                "analyse it first: report.compare(htr.analyze(other))"
            )
        levels = [report.settings.get("level") for report in (self, other)]
        if levels[0] != levels[1]:
            raise ValueError(
                f"the intervals are of level={levels[0]} and level={levels[1]}, and a difference "
                "has one; analyse both networks with the same"
            )
        rows, unmatched = compare_matrices(*(list(r.matrices.values()) for r in (self, other)))
        return CheckpointComparison(rows, self, other, unmatched)

    def plot(self, name: str | None = None, *, path: str | PathLike[str] | None = None) -> Figure:
        """Draw alpha by depth and some spectra; or ESD, survival and Hill curve of one matrix.

        Args:
            name: The matrix; all by default.
            path: If given, the file in which the figure is saved.

        Raises:
            ValueError: There is no such matrix.
            ImportError: matplotlib is not installed.
        """
        level = self.settings["level"]
        if name is None:
            figure = plot_network(list(self.matrices.values()), self.label, level)
        else:
            figure = plot_matrix(self.matrix(name), level)
        save(figure, path)
        return figure

    def to_html(self, path: str | PathLike[str]) -> Path:
        """Write the report as one HTML file that needs nothing else.

        Raises:
            OutputError: The file cannot be written.
        """
        matrices = list(self.matrices.values())
        return write_text(path, page(self.label, matrices, self.skipped, self.settings))


@dataclass(frozen=True)
class CheckpointComparison(Records):
    """A row for each matrix that is in both networks with the same shape.

    Attributes:
        rows: `alpha` of both and their `difference` (the second minus the first) with its interval,
            the ratio of the largest eigenvalues, both stable ranks, and a verdict.
        first: The report of the first network.
        second: The report of the second network.
        unmatched: Names of matrices that are in one network alone, or have another shape.
    """

    first: SpectraReport = field(repr=False)
    second: SpectraReport = field(repr=False)
    unmatched: tuple[str, ...] = ()

    title: ClassVar[str] = "Spectra of two networks"
    headings: ClassVar[dict[str, str]] = {
        "name": "name",
        "alpha": "alpha",
        "other_alpha": "second",
        "difference": "difference",
        "difference_low": "low",
        "difference_high": "high",
        "lambda_max_ratio": "ratio of lambda_max",
        "stable_rank": "stable rank",
        "other_stable_rank": "second",
        "verdict": "verdict",
    }
    narrower: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("name", "alpha", "other_alpha", "difference", "verdict"),
        ("name", "difference", "verdict"),
        ("name", "verdict"),
    )

    def sides(self) -> list[tuple[str, list[MatrixSpectrum]]]:
        """Return the label and the matrices of each network, of the matrices that are in both.

        Networks with the same label are told apart by their order.
        """
        reports = (self.first, self.second)
        labels = [report.label for report in reports]
        if labels[0] == labels[1]:
            labels = [f"{labels[0]}, first", f"{labels[1]}, second"]
        names = [row["name"] for row in self.rows]
        return [
            (label, [report.matrices[name] for name in names])
            for label, report in zip(labels, reports, strict=True)
        ]

    def plot(self, name: str | None = None, *, path: str | PathLike[str] | None = None) -> Figure:
        """Draw exponents and largest eigenvalues of all matrices, or both ESDs of one.

        Args:
            name: The matrix; all by default.
            path: If given, the file in which the figure is saved.

        Raises:
            ValueError: There is no such matrix in both networks.
            ImportError: matplotlib is not installed.
        """
        names = [row["name"] for row in self.rows]
        if name is None:
            figure = plot_comparison(self.sides())
        elif name in names:
            place = names.index(name)
            figure = plot_pair([(label, side[place]) for label, side in self.sides()])
        else:
            raise ValueError(f"no matrix {name!r} in both networks; there are {names[:8]}, ...")
        save(figure, path)
        return figure

    def to_html(self, path: str | PathLike[str]) -> Path:
        """Write the report of the first network with the comparison in it, as one HTML file.

        Raises:
            OutputError: The file cannot be written.
        """
        first = self.first
        text = page(
            first.label,
            list(first.matrices.values()),
            first.skipped,
            first.settings,
            other_label=self.second.label,
            sides=self.sides(),
            differences=self.rows,
            unmatched=self.unmatched,
        )
        return write_text(path, text)


def compare_matrices(
    first: Sequence[MatrixSpectrum], second: Sequence[MatrixSpectrum]
) -> tuple[list[Row], tuple[str, ...]]:
    """Make the rows of a comparison, and list the names that are in one report alone.

    Raises:
        DataError: The networks share no matrix with the same name and shape.
    """
    others = {_key(matrix): matrix for matrix in second}
    check_shared([_key(matrix) for matrix in first], list(others))
    pairs = [(matrix, others[_key(matrix)]) for matrix in first if _key(matrix) in others]
    both = {_key(matrix) for matrix, _ in pairs}
    unmatched = dict.fromkeys(m.name for m in (*first, *second) if _key(m) not in both)
    return [_difference_row(a, b) for a, b in pairs], tuple(unmatched)


def check_shared(first: Sequence[tuple[Any, ...]], second: Sequence[tuple[Any, ...]]) -> None:
    """Check that two networks have a matrix in common.

    Args:
        first: A name, followed by what else has to be equal, of each matrix of the first network.
        second: The same of the second network.

    Raises:
        DataError: The networks have no matrix in common.
    """
    if not set(first) & set(second):
        names = [", ".join(str(name) for name, *_ in side[:5]) for side in (first, second)]
        raise DataError(
            f"the networks share no matrix of one name and shape (first: {names[0]}; second: "
            f"{names[1]}); compare checkpoints of one network"
        )


def _key(matrix: MatrixSpectrum) -> tuple[Any, ...]:
    return tuple(matrix.row[name] for name in ("name", "N", "M", "rf"))


def _difference_row(first: MatrixSpectrum, second: MatrixSpectrum) -> Row:
    a, b = first.row, second.row
    difference, low, high = math.nan, math.nan, math.nan
    doubts = _doubts(first, second)
    if not doubts:
        difference = b["alpha"] - a["alpha"]
        low, high = _difference_interval(first, second)
    largest, other_largest = a["lambda_max"], b["lambda_max"]
    return {
        "name": a["name"],
        "N": a["N"],
        "M": a["M"],
        "alpha": a["alpha"],
        "other_alpha": b["alpha"],
        "difference": difference,
        "difference_low": low,
        "difference_high": high,
        "lambda_max": largest,
        "other_lambda_max": other_largest,
        "lambda_max_ratio": other_largest / largest if largest > 0 else math.nan,
        "stable_rank": a["stable_rank"],
        "other_stable_rank": b["stable_rank"],
        "verdict": f"not compared: {doubts}" if doubts else _difference_verdict(low, high),
        "first_verdict": a["verdict"],
        "other_verdict": b["verdict"],
    }


def _difference_interval(first: MatrixSpectrum, second: MatrixSpectrum) -> tuple[float, float]:
    a, b = first.alpha, second.alpha
    (low_a, high_a), (low_b, high_b) = first.interval, second.interval
    return (
        b - a - math.hypot(_distance(b, low_b), _distance(high_a, a)),
        b - a + math.hypot(_distance(high_b, b), _distance(a, low_a)),
    )


def _distance(upper: float, lower: float) -> float:
    """Return the distance from an estimate to the end of its interval; it is 0 beyond that end."""
    length = upper - lower
    return length if math.isnan(length) else max(length, 0.0)


def _doubts(first: MatrixSpectrum, second: MatrixSpectrum) -> str:
    """Return the reason why the exponents of a matrix are not compared; empty if they are."""
    matrices = {"first": first, "second": second}
    labels = {name: m.kind.label for name, m in matrices.items() if m.kind in _DOUBTS}
    if len(labels) == 2 and len(set(labels.values())) == 1:
        return f"{labels['first']} in both"
    return "; ".join(f"{label} in the {name}" for name, label in labels.items())


def _difference_verdict(low: float, high: float) -> str:
    if low <= 0 <= high:
        return "no difference to tell"
    return f"{'heavier' if high < 0 else 'lighter'}-tailed in the second"


def _summary(rows: Sequence[tuple[dict[str, Any], Kind]]) -> dict[str, float | int]:
    """Summarise rows of a report, each with the kind of its verdict.

    Returns:
        The dictionary of `SpectraReport.summary`.
    """
    everything = [row for row, _ in rows]
    behind = [row for row, kind in rows if kind.filled]
    alphas = [row.get("alpha") for row in behind]
    return {
        "matrices": len(rows),
        **{
            name: _statistic((r.get(name) for r in everything), statistics.fmean) for name in _MEANS
        },
        "alpha_median": _statistic((row.get("alpha") for row in everything), statistics.median),
        "power_laws": len(behind),
        "power_law_alpha_mean": _statistic(alphas, statistics.fmean),
        "power_law_alpha_median": _statistic(alphas, statistics.median),
        "power_law_alpha_weighted": _statistic(
            (row.get("alpha_weighted") for row in behind), statistics.fmean
        ),
        **{f"num_{kind.key}": sum(k is kind for _, k in rows) for kind in KINDS},
    }


def _statistic(values: Iterable[float | None], statistic: Callable[[list[float]], float]) -> float:
    """Return a statistic of the finite values; NaN without any."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return statistic(finite) if finite else math.nan

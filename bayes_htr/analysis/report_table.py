"""`SpectraReport`, what `analyze` returns, and `CheckpointComparison`, two of them side by side.

Their numbers are in `bayes_htr.analysis.measured` and `bayes_htr.analysis.checkpoints`; here are
the pictures and pages that are made from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from bayes_htr.analysis.checkpoints import PairedSpectra, compare_rows
from bayes_htr.analysis.measured import MeasuredSpectra

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class SpectraReport(MeasuredSpectra):
    """The spectra of a network, a row per matrix; `print` shows the most important columns.

    Attributes:
        rows: One dict per matrix; the columns are those of `bayes_htr.analysis.COLUMNS`.
        label: The network.
        spectra: `(K,)` eigenvalues of each matrix by name, ascending, in float64.
        fits: The tail fit of each by name, or `None` where there is no tail.
        bulks: The Marchenko-Pastur bulk of each by name, or `None`.
        skipped: Tensors of two or more dimensions that are not in the report, and why.
        settings: How it was made.
    """

    def compare(self, other: SpectraReport) -> CheckpointComparison:
        """The same matrices in two networks, side by side; see `CheckpointComparison`.

        Raises:
            DataError: No matrix of one name and shape is in both.
            ValueError: Intervals of different levels.
        """
        return compare_reports(self, other)

    def plot(self, name: str | None = None, *, path: str | PathLike[str] | None = None) -> Figure:
        """Alpha by depth and some spectra; or, of one matrix, ESD, survival and Hill curve.

        Args:
            name: The matrix; all by default.
            path: If given, where the figure is saved.

        Raises:
            ValueError: No such matrix.
            ImportError: matplotlib is not installed.
        """
        from bayes_htr.analysis.plots import plot_matrix, plot_report

        if name is None:
            return plot_report(self, path=path)
        return plot_matrix(self, name, path=path)

    def to_html(self, path: str | PathLike[str]) -> Path:
        """Write the report as one HTML file that needs nothing else.

        Raises:
            OutputError: It cannot be written.
        """
        from bayes_htr.analysis.page import write_page

        return write_page(path, self)


@dataclass(frozen=True)
class CheckpointComparison(PairedSpectra):
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

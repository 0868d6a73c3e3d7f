"""`SpectraReport`: what `analyze` returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rich.table import Table

from bayes_htr._version import __version__
from bayes_htr.analysis.checkpoints import CheckpointComparison, compare_reports
from bayes_htr.analysis.esd import Array
from bayes_htr.analysis.marchenko_pastur import MarchenkoPasturFit
from bayes_htr.analysis.records import Records
from bayes_htr.tails import PowerlawFit

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class SpectraReport(Records):
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

    label: str = ""
    spectra: dict[str, Array] = field(default_factory=dict, repr=False)
    fits: dict[str, PowerlawFit | None] = field(default_factory=dict, repr=False)
    bulks: dict[str, MarchenkoPasturFit | None] = field(default_factory=dict, repr=False)
    skipped: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    title: ClassVar[str] = "Spectra"
    shown: ClassVar[tuple[str, ...]] = (
        "name",
        "N",
        "M",
        "alpha",
        "interval_low",
        "interval_high",
        "searched_low",
        "searched_high",
        "p_value",
        "num_pl_spikes",
        "stable_rank",
        "num_spikes",
        "verdict",
    )
    headings: ClassVar[dict[str, str]] = {
        "interval_low": "low",
        "interval_high": "high",
        "searched_low": "low",
        "searched_high": "high",
        "p_value": "p",
        "num_pl_spikes": "in tail",
        "stable_rank": "stable rank",
        "num_spikes": "spikes",
    }

    def table(self, columns: Sequence[str] | None = None) -> Table:
        """A table for the terminal; with the intervals over xmin where there are such.

        Args:
            columns: Which; the most important ones by default.

        Raises:
            ValueError: A column that there is not.
        """
        if columns is None and "searched_low" in self.columns:
            known = ("interval_low", "interval_high")
            columns = [c for c in self.shown if c in self.columns and c not in known]
        return super().table(columns)

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

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data; what is not a finite number is `None`."""
        return {
            **super().to_dict(),
            "network": self.label,
            "version": __version__,
            "settings": self.settings,
            "skipped": self.skipped,
        }

"""The spectra of a network as numbers, without the pictures and pages made from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rich.table import Table

from bayes_htr._version import __version__
from bayes_htr.analysis.esd import Array
from bayes_htr.analysis.marchenko_pastur import MarchenkoPasturFit
from bayes_htr.analysis.records import Records
from bayes_htr.tails import PowerlawFit


@dataclass(frozen=True)
class MeasuredSpectra(Records):
    """The rows and arrays of a `SpectraReport`, which says what they are."""

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

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data; what is not a finite number is `None`."""
        return {
            **super().to_dict(),
            "network": self.label,
            "version": __version__,
            "settings": self.settings,
            "skipped": self.skipped,
        }

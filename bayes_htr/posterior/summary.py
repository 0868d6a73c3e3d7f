"""Quantities of posterior spectra as intervals, and the table of all matrices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table
from torch import Tensor

from bayes_htr._printing import Printable, add_row, compact_table


@dataclass(frozen=True)
class Interval:
    """A posterior quantity: its mean, standard deviation, credible interval, and draws.

    If a tail has only a few eigenvalues, the mean of `alpha` over draws of the spectrum can be
    infinite, and the mean of finitely many draws then says little. The `median` always lies within
    the interval.

    Attributes:
        mean: The posterior mean.
        sd: The posterior standard deviation.
        low: The lower end of the credible interval.
        high: The upper end of the credible interval.
        draws: Draws of the quantity.
        given: The quantities that the interval takes as known, in words; empty if there are none.
    """

    mean: float
    sd: float
    low: float
    high: float
    draws: np.ndarray
    given: str = ""

    @property
    def median(self) -> float:
        """The median of the draws."""
        return float(np.median(self.draws))

    def __repr__(self) -> str:
        given = f" given {self.given}" if self.given else ""
        ends = f"[{self.low:.4g}, {self.high:.4g}]"
        return f"Interval({self.mean:.4g} +- {self.sd:.2g}, {ends}{given})"


def interval_of(draws: Tensor, level: float) -> Interval:
    """Return a quantity of which there are draws `(S,)`, with its equal-tailed interval."""
    values = draws.double().numpy()
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(values.std()), float(low), float(high), values)


@dataclass(frozen=True)
class SummaryRow:
    """The summary of one matrix.

    Attributes:
        matrix: The name of the matrix.
        K: The number of its eigenvalues.
        n_tail: The number of eigenvalues in the tail whose exponent is alpha.
        alpha: The exponent of the tail; `None` if none can be read.
        problem: The reason why no exponent can be read; empty if one can.
        doubt: The law that fits the tail better than a power law, in words; empty if none does.
        lambda_max: The largest eigenvalue.
        stable_rank: The stable rank, `sum lambda / lambda_max`.
        few: Whether the matrix has too few eigenvalues to tell anything about a tail.
    """

    matrix: str
    K: int
    n_tail: int | None
    alpha: Interval | None
    problem: str
    doubt: str
    lambda_max: Interval
    stable_rank: Interval
    few: bool = False

    def cells(self) -> tuple[str, str, str]:
        """Return alpha, the largest eigenvalue and the stable rank as text, with intervals."""
        mark = " ?" if self.doubt else ""
        alpha = self.problem if self.alpha is None else _text(self.alpha) + mark
        return alpha, _text(self.lambda_max), _text(self.stable_rank)


@dataclass(frozen=True)
class SpectraSummary(Printable):
    """The summary of all matrices, which prints as a table.

    Attributes:
        rows: One row for each matrix.
        level: The probability of the credible intervals.
    """

    rows: tuple[SummaryRow, ...]
    level: float

    def parts(self, width: int) -> Sequence[Table | str]:
        """Return a row for each matrix, and the note on exponents."""
        table = compact_table("matrix", "K", "tail", "alpha", "lambda_max", "stable rank")
        for row in self.rows:
            in_tail = "-" if row.n_tail is None else str(row.n_tail)
            cells = (row.matrix, str(row.K), in_tail, *row.cells())
            add_row(table, cells, wrapped=[3] if row.alpha is None else [])
        return [table, alpha_note(self.rows, self.level)]


def alpha_note(rows: Iterable[SummaryRow], level: float) -> str:
    """Return the note below a table of exponents: the estimator, and what its interval means.

    If an exponent has a question mark, the note also says what the mark means.
    """
    note = (
        "alpha: exponent of the power law in the tail, whose start was searched; mean "
        f"[{100 * level:g} % credible interval given that tail]"
    )
    if doubts := sorted({row.doubt for row in rows if row.doubt}):
        note += (
            f"\n?: {' or '.join(doubts)} fits this tail better; read alpha as a summary of how "
            "slowly it falls"
        )
    return note


def _text(interval: Interval) -> str:
    """Return the mean, and the interval unless it has no width."""
    if interval.low == interval.high:
        return f"{interval.mean:.3g}"
    return f"{interval.mean:.3g} [{interval.low:.3g}, {interval.high:.3g}]"

"""Scores of predictions with their standard errors, as `Posterior.evaluate` returns them.

A standard error says how much a score would vary if other test examples had been drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from bayes_htr._printing import Printable, add_row, compact_table
from bayes_htr._terminal import plural
from bayes_htr.posterior.scores import Score


class Scores(Printable, dict[str, float]):
    """Scores by name: a dictionary of numbers that prints as a table.

    Args:
        scores: The scores.
        standard_errors: The standard errors of those scores that have one.
        num_examples: The number of test examples.

    Attributes:
        standard_errors: The standard errors by name of the score; they are those of the choice of
            test examples, not of the seed of the fit.
        num_examples: The number of test examples.
    """

    def __init__(
        self, scores: Mapping[str, float], standard_errors: Mapping[str, float], num_examples: int
    ) -> None:
        super().__init__(scores)
        self.standard_errors = dict(standard_errors)
        self.num_examples = num_examples

    @classmethod
    def of(cls, scores: Mapping[str, Score], num_examples: int) -> Scores:
        """The numbers of scores that were measured; a standard error that is NaN is left out."""
        values = {name: score.value for name, score in scores.items()}
        errors = {name: score.error for name, score in scores.items()}
        known = {name: error for name, error in errors.items() if not math.isnan(error)}
        return cls(values, known, num_examples)

    def __repr__(self) -> str:
        return str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self), self.standard_errors, self.num_examples)

    def parts(self, width: int) -> Sequence[Table | str]:
        """A row for each score, with as many digits as the standard error leaves."""
        table = compact_table("score", "value", "standard error")
        for name, value in self.items():
            error = self.standard_errors.get(name, math.nan)
            digits = 4
            if math.isfinite(error) and error > 0:
                digits = min(6, max(0, 1 - math.floor(math.log10(error))))
            shown = f"{error:.{digits}f}" if math.isfinite(error) else ""
            add_row(table, [name, f"{value:.{digits}f}", shown])
        return [table, plural(self.num_examples, "test example")]

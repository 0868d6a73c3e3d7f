"""How a tail is fitted and judged: the rule, the exponent by it, and the distance by it.

Everything is in logarithms: with `t = log(x / xmin)` a power law is an exponential law of rate
`alpha - 1`, so that no scale of the data overflows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bayes_htr.tails.truncated import truncated_cdf, truncated_rate

Array = NDArray[np.float64]
Correction = Literal["none", "n-1", "n-2"]
KS = Literal["lower", "two-sided"]

ROUNDING = 1e-12
"""Of logarithms: values that differ by less are one."""

_LOST = {"none": 0, "n-1": 1, "n-2": 2}


@dataclass(frozen=True)
class Rule:
    """How a tail is fitted and judged.

    Attributes:
        ks: Deviations of the law's distribution function from the lower end of each step of the
            empirical one (`"lower"`), or from both ends (`"two-sided"`, the usual statistic).
        min_tail: The fewest values that a searched tail may hold.
        correction: The factor of `alpha - 1` for a finite tail of n values: none, `(n-1)/n`, which
            is unbiased where xmin is known, or `(n-2)/n`, which is where xmin is one of the values.
    """

    ks: KS = "lower"
    min_tail: int = 2
    correction: Correction = "none"

    def __post_init__(self) -> None:
        if self.ks not in ("lower", "two-sided"):
            raise ValueError(f"ks={self.ks!r} must be 'lower' or 'two-sided'")
        if self.correction not in _LOST:
            raise ValueError(f"correction={self.correction!r} must be 'none', 'n-1' or 'n-2'")
        least = max(2, 1 + _LOST[self.correction])
        if self.min_tail < least:
            raise ValueError(
                f"min_tail={self.min_tail}: with correction={self.correction!r} a tail needs at "
                f"least {least} values"
            )

    def rate(self, excess: Any, n: Any, span: Any = None) -> Array:
        """`alpha - 1` of maximum likelihood, corrected.

        Args:
            excess: `sum log(x / xmin)` of a tail.
            n: Its size.
            span: `log(xmax / xmin)` where the law has an upper end.

        Returns:
            Of the arguments' shape; infinite or nan where all values of a tail are one.
        """
        if span is not None:
            return truncated_rate(excess / n, span)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(excess > 0, (n - _LOST[self.correction]) / excess, np.inf)

    def deviation(self, law: Array, order: Any, n: Any) -> Array:
        """The deviation of a law from the empirical distribution function at values of a tail.

        Args:
            law: The law's distribution function at the values.
            order: How many values of the tail lie below each.
            n: The tail's size.
        """
        below = np.abs(law - order / n)
        if self.ks == "lower":
            return below
        return np.maximum(below, np.abs((order + 1) / n - law))


def law_cdf(rate: Any, t: Any, span: Any = None) -> Array:
    """`P(log(X / xmin) <= t)`, with an upper end at `span` where there is one."""
    if span is None:
        return 1 - np.exp(-rate * t)  # several times as fast as expm1, and as exact as D needs
    return truncated_cdf(rate, t, span)

"""The trace-log condition (ERG): the tail whose eigenvalues have a product of one.

The spectrum is scaled to mean 1. From the largest eigenvalue down, the product first grows and then
falls: the tail holds the eigenvalues up to the one with which it falls below 1. WeightWatcher's
`detX`; here logarithms are summed, since the product itself leaves the floating-point numbers from
about a thousand eigenvalues on (WeightWatcher then counts nearly all of them).

Reference: Martin & Hinrichs (2025), "SETOL: a semi-empirical theory of (deep) learning",
arXiv:2507.17912.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayes_htr.analysis.esd import ESD


@dataclass(frozen=True)
class TraceLog:
    """The tail of the trace-log condition.

    Attributes:
        count: How many eigenvalues it holds.
        value: The smallest of them.
        scaled: The same in a spectrum of mean 1.
    """

    count: int
    value: float
    scaled: float


def trace_log(esd: ESD) -> TraceLog | None:
    """The tail, or `None` of a spectrum of equal values, for which there is none."""
    values = esd.values
    if not values[0] < values[-1]:
        return None
    scaled = values / values.mean()
    with np.errstate(divide="ignore"):
        below = np.log(scaled[::-1]).cumsum() < 0
    if not below.any():  # equal but for rounding
        return None
    count = int(below.argmax()) + 1
    return TraceLog(count, float(values[-count]), float(scaled[-count]))

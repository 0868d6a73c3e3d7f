"""One number of a spectrum over the steps of training, with its credible interval.

Alpha is that of every table here (`bayes_htr.tails.fit_tail`): the exponent of the tail whose start
was searched. The interval takes that tail as known. It says what so many eigenvalues tell of an
exponent. It is no uncertainty of the weights, which a single run of training does not show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from bayes_htr.tails import fit_tail

QUANTITIES = ("lambda_max", "alpha", "stable_rank")


@dataclass(frozen=True, eq=False)
class Trace:
    """A quantity over steps.

    Attributes:
        steps: `(T,)`.
        values: `(T,)`; of alpha the posterior mean, nan where no exponent can be read.
        interval: `(T, 2)`, the credible interval of alpha; `None` for what has none.
    """

    steps: np.ndarray
    values: np.ndarray
    interval: np.ndarray | None = None


def trace(
    lam: Tensor,
    quantity: str,
    steps: Sequence[int],
    *,
    level: float = 0.95,
) -> Trace:
    """A quantity of each of several spectra of one matrix.

    Args:
        lam: `(T, K)`, each row descending.
        quantity: `lambda_max`; `alpha`, the exponent of the tail's density; `stable_rank`,
            `sum lambda / lambda_1`, nan for a zero matrix.
        steps: `T` of them.
        level: Of the credible interval of alpha, equal-tailed.

    Raises:
        ValueError: Another quantity, or `level` outside (0, 1).
    """
    if quantity not in QUANTITIES:
        raise ValueError(f"quantity={quantity!r} must be one of {', '.join(QUANTITIES)}")
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1")
    at = np.asarray(steps)
    if quantity == "lambda_max":
        return Trace(at, lam[:, 0].double().numpy())
    if quantity == "stable_rank":
        return Trace(at, (lam.double().sum(1) / lam[:, 0]).numpy())
    tails = [fit_tail(row.numpy(), level=level) for row in lam]
    values, low, high = (np.full(len(lam), np.nan) for _ in range(3))
    for row, tail in enumerate(tails):
        if tail.fit is not None and not tail.problem:
            values[row], (low[row], high[row]) = tail.fit.alpha, tail.fit.interval
    return Trace(at, values, np.stack([low, high], axis=1))

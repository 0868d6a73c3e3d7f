"""One number of a spectrum over the steps of training, with its credible interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from bayes_htr.tails import fit_tail
from bayes_htr.tails.intervals import check_level

QUANTITIES = ("lambda_max", "alpha", "stable_rank")


@dataclass(frozen=True, eq=False)
class Trace:
    """A quantity of one matrix over steps.

    Attributes:
        steps: `(T,)`.
        values: `(T,)`; alpha is nan where the tail has no exponent.
        interval: `(T, 2)` the credible interval of alpha; `None` for other quantities.
    """

    steps: np.ndarray
    values: np.ndarray
    interval: np.ndarray | None = None


def trace(lam: Tensor, quantity: str, steps: Sequence[int], *, level: float = 0.95) -> Trace:
    """Compute a quantity of each of several spectra of one matrix.

    Args:
        lam: `(T, K)` spectra, each row descending.
        quantity: `lambda_max`, `alpha` or `stable_rank`; see `SpectrumHistory.trace`.
        steps: The `T` steps.
        level: Probability of the credible interval of alpha.

    Raises:
        ValueError: No such quantity, or `level` does not lie between 0 and 1.
    """
    if quantity not in QUANTITIES:
        raise ValueError(f"quantity={quantity!r} must be one of {', '.join(QUANTITIES)}")
    check_level(level)
    if quantity == "lambda_max":
        return Trace(np.asarray(steps), lam[:, 0].double().numpy())
    if quantity == "stable_rank":
        return Trace(np.asarray(steps), (lam.double().sum(1) / lam[:, 0]).numpy())
    alpha, interval = np.full(len(lam), np.nan), np.full((len(lam), 2), np.nan)
    for row, values in enumerate(lam):
        tail = fit_tail(values.numpy(), level=level)
        if tail.fit is not None and not tail.problem:
            alpha[row], interval[row] = tail.fit.alpha, tail.fit.interval
    return Trace(np.asarray(steps), alpha, interval)

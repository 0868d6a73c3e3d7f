"""One number of a spectrum over the steps of training, with its credible interval.

Given a spectrum, the tail index `alpha - 1` of its upper part is `Gamma(k, S)` under Jeffreys'
prior (`PosteriorSpectra.alpha`); the interval is that Gamma's. It says what `K` eigenvalues tell of
an exponent. It is no uncertainty of the weights, which a single run of training does not show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special
from torch import Tensor

from bayes_htr.errors import SpectrumError
from bayes_htr.posterior.plots import TIES
from bayes_htr.spectra import hill, tail_count

QUANTITIES = ("lambda_max", "alpha", "stable_rank")


@dataclass(frozen=True, eq=False)
class Trace:
    """A quantity over steps.

    Attributes:
        steps: `(T,)`.
        values: `(T,)`; of alpha the posterior mean, nan where there is no tail to fit.
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
    fraction: float = 0.5,
    name: str = "the spectrum",
) -> Trace:
    """A quantity of each of several spectra of one matrix.

    Args:
        lam: `(T, K)`, each row descending.
        quantity: `lambda_max`; `alpha`, the exponent of the upper tail's density; `stable_rank`,
            `sum lambda / lambda_1`, nan for a zero matrix.
        steps: `T` of them.
        level: Of the credible interval of alpha, equal-tailed.
        fraction: The part of the spectrum that is its tail.
        name: What errors call the matrix.

    Raises:
        ValueError: Another quantity, or `level` or `fraction` outside (0, 1).
    """
    if quantity not in QUANTITIES:
        raise ValueError(f"quantity={quantity!r} must be one of {', '.join(QUANTITIES)}")
    for argument, value in (("level", level), ("fraction", fraction)):
        if not 0 < value < 1:
            raise ValueError(f"{argument}={value} must lie between 0 and 1")
    at = np.asarray(steps)
    if quantity == "lambda_max":
        return Trace(at, lam[:, 0].double().numpy())
    if quantity == "stable_rank":
        return Trace(at, (lam.double().sum(1) / lam[:, 0]).numpy())
    index = np.array([_tail_index(row, fraction, name) for row in lam])
    k = tail_count(lam.shape[1], fraction)
    ends = special.gammaincinv(k, [(1 - level) / 2, (1 + level) / 2]) / k
    return Trace(at, 1 + index, 1 + index[:, None] * ends)


def _tail_index(lam: Tensor, fraction: float, name: str) -> float:
    """The mean of the tail index, which is Hill's estimate; nan where there is no tail."""
    try:
        index = float(hill(lam, fraction, exponent="tail", name=name))
    except SpectrumError:  # one eigenvalue, zeros, or ties
        return float("nan")
    return index if index < TIES else float("nan")

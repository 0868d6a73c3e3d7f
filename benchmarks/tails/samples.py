"""Laws whose upper tail is known, to draw samples from: what a tail fit is calibrated on."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Sample = NDArray[np.float64]
Draw = Callable[[int, float, np.random.Generator], Sample]

_BULK_TAIL = 0.4


def pure(n: int, alpha: float, random: np.random.Generator) -> Sample:
    """A power law from 1 on, and nothing else."""
    return np.exp(random.standard_exponential(n) / (alpha - 1))


def bulk(n: int, alpha: float, random: np.random.Generator) -> Sample:
    """A hump on [0, 1], Beta(3/2, 3/2), and a power law from 1 on with 40 % of the values.

    Like a random bulk beside a tail: the density rises by a step at 1.
    """
    body = random.beta(1.5, 1.5, n)
    return np.where(random.random(n) < _BULK_TAIL, pure(n, alpha, random), body)


def smooth(n: int, alpha: float, random: np.random.Generator) -> Sample:
    """`e^-(alpha (x - 1))` below 1 and `x^-alpha` from 1 on, without a kink where they meet.

    The hard case of Clauset, Shalizi and Newman (2009), section 3.3.2: at alpha 2.5 a tail of 13 %
    of the values, and a body that is close to a power law just below it.
    """
    tail, body = 1 / (alpha - 1), math.expm1(alpha) / alpha
    below = -np.log1p(-random.random(n) * -math.expm1(-alpha)) / alpha
    in_tail = random.random(n) < tail / (tail + body)
    return np.where(in_tail, pure(n, alpha, random), below)


def lognormal(n: int, alpha: float, random: np.random.Generator) -> Sample:
    """No power law: the standard lognormal law, whatever alpha is."""
    return np.exp(random.standard_normal(n))


LAWS: dict[str, Draw] = {"pure": pure, "bulk": bulk, "smooth": smooth}
"""Those with a power law from 1 on, by name."""

"""The tail of one spectrum: the estimator that every `alpha` of this library comes from.

`fit_tail` is `fit_powerlaw` with what a spectrum needs around it: eigenvalues that are zero but
for rounding are left out, leading eigenvalues that are tied are recognised, and a tail that is too
short to be read says so. `analyze`, `PosteriorSpectra.alpha`, the tables of a run and the pictures
all call it, so that one matrix has one alpha. Estimates by another rule, such as Hill's of the
upper half, go by their own names.

**Ties.** A prior on the largest eigenvalue pushes down whichever is largest, until several are
equal. Such a plateau is no power law, and its exponent (the inverse of its width) would be a number
of hundreds or thousands. The m largest eigenvalues are called tied if they lie within 5 % of the
largest, and

1. under the power law that continues below them, of exponent `1 + a`, so many values would lie so
   close with a probability below 1e-5: given `lambda_m`, the m - 1 logarithms above it are
   exponential of rate `a`, so that this probability is `(1 - exp(-a t))^(m - 1)`,
   `t = log(lambda_1 / lambda_m)`;
2. the plateau ends: `t` is at most a quarter of `log(lambda_m / lambda_2m)`. At the soft edge of a
   random matrix the eigenvalues lie close as well, but go on as they began.

A fitted tail whose values all lie within 7 % of the largest has no exponent either: it is too
narrow for one. The whole spectrum of a random matrix with many more columns than rows is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bayes_htr.errors import SpectrumError
from bayes_htr.tails.alternatives import ALTERNATIVES, LAW_NAMES, favoured
from bayes_htr.tails.powerlaw_fit import fit_powerlaw
from bayes_htr.tails.result import PowerlawFit
from bayes_htr.tails.rules import Array

FEWEST = 20
"""Eigenvalues below which no exponent is read: WeightWatcher's bound of small spectra."""

FEWEST_IN_TAIL = 10
"""Eigenvalues in the tail below which no exponent is read."""

_TIE_WIDTH = 0.05
_TIE_PROBABILITY = 1e-5
_TIE_GAP = 0.25
_NARROWEST = 0.07
_SINGLE = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class SpectrumTail:
    """The power law in the tail of a spectrum, and whether its exponent may be read.

    Attributes:
        fit: The power law; `None` where there is none to fit.
        problem: Why no exponent should be read, in a few words; empty if one may be.
        ties: How many leading eigenvalues are tied; 0 if they are not.
        few: Whether the spectrum has too few eigenvalues to tell anything.
    """

    fit: PowerlawFit | None
    problem: str = ""
    ties: int = 0
    few: bool = False

    def readable(self, name: str) -> PowerlawFit:
        """The fit, if its exponent may be read.

        Raises:
            SpectrumError: It may not; the message names the matrix and says why.
        """
        if self.fit is None or self.problem:
            raise SpectrumError(f"{name} has no exponent: {self.problem}")
        return self.fit

    @property
    def doubt(self) -> str:
        """Which other law fits the tail better at the 10 % level, in words; empty if none does."""
        if self.fit is None:
            return ""
        best = favoured([self.fit.compare(name) for name in ALTERNATIVES])
        return LAW_NAMES[best.name] if best else ""


def fit_tail(
    eigenvalues: Any,
    *,
    floor: float | None = None,
    error: float | None = None,
    level: float = 0.95,
    bootstrap: int = 0,
    seed: int = 0,
) -> SpectrumTail:
    """Fit a power law to the tail of a spectrum, xmin searched.

    Fewer than 20 eigenvalues are fitted by the rule that WeightWatcher has for them: at least 8 in
    the tail, and `alpha - 1` corrected by `(n-1)/n`.

    Args:
        eigenvalues: `(K,)` in any order.
        floor: Eigenvalues up to it are zero but for rounding; by default those that float32
            cannot tell from zero.
        error: What rounding may put between two eigenvalues that are equal; by default what that
            of float32 does.
        level: Probability of the intervals.
        bootstrap: Replicates, as in `fit_powerlaw`.
        seed: Of the replicates.
    """
    values = np.sort(np.asarray(eigenvalues, dtype=np.float64))
    if not np.isfinite(values).all():
        return SpectrumTail(None, "no tail: some eigenvalues are not finite")
    if not len(values) or values[-1] <= 0:
        return SpectrumTail(None, "no tail: all eigenvalues are zero")
    if floor is None:
        floor = float(values[-1]) * (len(values) * _SINGLE) ** 2
    if error is None:
        error = 8 * _SINGLE * float(values[-1])
    used = values[values > floor]
    if ties := tied(used, error):
        apart = _within(used[-1] - used[-ties], used[-1], error)
        return SpectrumTail(None, f"tied: the {ties} largest are equal{apart}", ties)
    small: dict[str, Any] = {"min_tail": 8, "correction": "n-1"} if len(used) < FEWEST else {}
    few = f"too few eigenvalues to tell ({len(used)})"
    if len(used) < len(values):
        few = f"too few eigenvalues that are not zero to tell ({len(used)})"
    try:
        fit = fit_powerlaw(used, level=level, bootstrap=bootstrap, seed=seed, **small)
    except SpectrumError:
        return SpectrumTail(None, few if small else "no tail to fit", few=bool(small))
    if math.log(used[-1] / fit.xmin) < _NARROWEST:
        width = 100 * (1 - fit.xmin / used[-1])
        return SpectrumTail(None, f"no tail: its {fit.n_tail} values lie within {width:.2g} %")
    if small:
        return SpectrumTail(fit, few, few=True)
    if fit.n_tail < FEWEST_IN_TAIL:
        return SpectrumTail(fit, f"too few eigenvalues in the tail ({fit.n_tail} of {fit.n})")
    return SpectrumTail(fit)


def tied(values: Array, error: float = 0.0) -> int:
    """How many of the largest values are tied; 0 if they are not, see above.

    Args:
        values: `(K,)` positive values, ascending.
        error: What rounding may put between two values that are equal.
    """
    K = len(values)
    if K > 1 and values[-1] - values[0] <= error:
        return K
    logs = np.log(values[::-1])
    below = logs[0] - logs  # 0 for the largest
    close = np.flatnonzero(below <= _TIE_WIDTH) + 1
    for m in close[(close >= 3) & (close < K)][::-1].tolist():
        t, gap = float(below[m - 1]), float(logs[m - 1] - logs[min(2 * m, K) - 1])
        if t > _TIE_GAP * gap:
            continue
        if (1 - math.exp(-_rate_below(logs, m) * t)) ** (m - 1) < _TIE_PROBABILITY:
            return m
    return 0


def _rate_below(logs: Array, m: int) -> float:
    """Hill's tail index of the upper half, or of the 2m largest, without the m largest."""
    last = min(max(len(logs) // 2, 2 * m), len(logs)) - 1
    excess = float(np.sum(logs[m - 1 : last] - logs[last]))
    return (last - m + 1) / excess if excess > 0 else math.inf


def _within(width: float, largest: float, error: float) -> str:
    """How far tied values lie apart, if that is more than rounding."""
    if width <= max(error, 1e-6 * largest):
        return ""
    return f" within {100 * width / largest:.2g} %"

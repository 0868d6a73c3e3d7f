"""The tail of one spectrum: the estimator behind every `alpha` of this library.

`fit_tail` is `fit_powerlaw` with what a spectrum needs in addition: it leaves out eigenvalues that
differ from zero by rounding alone, recognises tied leading eigenvalues, and says when a tail is too
short for an exponent. `analyze`, `PosteriorSpectra.alpha`, the tables of a run and the pictures all
call it, so that one matrix has one alpha. Estimates by another rule, such as Hill's estimate from
the upper half, have names of their own.

**Ties.** A prior on the largest eigenvalue pushes down whichever eigenvalue is largest, until
several are equal. Such a plateau is no power law, and its exponent (the inverse of its width) would
be a number of hundreds or thousands. The m largest eigenvalues count as tied if they lie within 5 %
of the largest, and

1. so many values would lie so close with a probability below 1e-5 under the power law that
   continues below them, with exponent `1 + a`: given `lambda_m`, the m - 1 logarithms above it are
   exponential with rate `a`, so that this probability is `(1 - exp(-a t))^(m - 1)` with
   `t = log(lambda_1 / lambda_m)`;
2. the plateau ends: `t` is at most a quarter of `log(lambda_m / lambda_2m)`. At the soft edge of a
   random matrix the eigenvalues lie close together as well, but continue as they began.

A fitted tail whose values all lie within 7 % of the largest has no exponent either, because it is
too narrow for one. An example is the spectrum of a random matrix with many more columns than rows.
The same holds where the values exceed xmin by less than 3 % on average (the geometric mean), as in
a plateau below a few larger eigenvalues: no exponent above 35 is reported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bayes_htr.errors import SpectrumError
from bayes_htr.tails.alternatives import ALTERNATIVES, LAW_NAMES, best_alternative
from bayes_htr.tails.fit import fit_powerlaw
from bayes_htr.tails.result import PowerlawFit
from bayes_htr.tails.search import Array

FEWEST = 20
"""The smallest number of eigenvalues with an exponent: WeightWatcher's bound of small spectra."""

FEWEST_IN_TAIL = 10
"""The smallest number of eigenvalues in a tail with an exponent."""

_TIE_WIDTH = 0.05
_TIE_PROBABILITY = 1e-5
_TIE_GAP = 0.25
_NARROWEST = 0.07
_CLOSEST = math.log(1.03)
_SINGLE = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class SpectrumTail:
    """The power law in the tail of a spectrum, and whether it has an exponent.

    Attributes:
        fit: The power law; `None` where there is none to fit.
        problem: The reason why the tail has no exponent, in a few words; empty if it has one.
        ties: The number of leading eigenvalues that are tied; 0 if they are not.
        few: Whether the spectrum has too few eigenvalues to tell anything.
    """

    fit: PowerlawFit | None
    problem: str = ""
    ties: int = 0
    few: bool = False

    def readable(self, name: str) -> PowerlawFit:
        """Return the fit of a tail that has an exponent.

        Raises:
            SpectrumError: The tail has no exponent; the message names the matrix and says why.
        """
        if self.fit is None or self.problem:
            raise SpectrumError(f"{name} has no exponent: {self.problem}")
        return self.fit

    @property
    def doubt(self) -> str:
        """The words for another law that fits better at the 10 % level; empty if none does."""
        if self.fit is None:
            return ""
        best = best_alternative([self.fit.compare(name) for name in ALTERNATIVES])
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
    """Fit a power law to the tail of a spectrum, with a search for xmin.

    Fewer than 20 eigenvalues are fitted by WeightWatcher's rule for them: at least 8 in the tail,
    and `alpha - 1` corrected by `(n-1)/n`.

    Args:
        eigenvalues: `(K,)` in any order.
        floor: Eigenvalues up to this value count as zero; by default those that float32 cannot
            distinguish from zero.
        error: The largest difference that rounding may cause between equal eigenvalues; by default
            that of float32.
        level: Probability of the intervals.
        bootstrap: Number of replicates, as in `fit_powerlaw`.
        seed: Seed of the replicates.
    """
    values = np.sort(np.asarray(eigenvalues, dtype=np.float64))
    if not np.isfinite(values).all():
        return SpectrumTail(None, "no tail: some eigenvalues are not finite")
    if not len(values) or values[-1] <= 0:
        return SpectrumTail(None, "no tail: all eigenvalues are zero")
    largest = float(values[-1])
    if floor is None:
        floor = largest * (len(values) * _SINGLE) ** 2
    if error is None:
        error = 8 * _SINGLE * largest
    used = values[values > floor]
    if ties := tied(used, error):
        width = used[-1] - used[-ties]
        within = ""
        if width > max(error, 1e-6 * used[-1]):
            within = f" within {100 * width / used[-1]:.2g} %"
        return SpectrumTail(None, f"tied: the {ties} largest are equal{within}", ties)
    small: dict[str, Any] = {"min_tail": 8, "correction": "n-1"} if len(used) < FEWEST else {}
    not_zero = " that are not zero" if len(used) < len(values) else ""
    few = f"too few eigenvalues{not_zero} to tell ({len(used)})"
    try:
        options = {"level": level, "bootstrap": bootstrap, "seed": seed, "discrete": False, **small}
        fit = fit_powerlaw(used, **options)
    except SpectrumError:
        return SpectrumTail(None, few if small else "no tail to fit", few=bool(small))
    if math.log(used[-1] / fit.xmin) < _NARROWEST:
        percent = 100 * (1 - fit.xmin / used[-1])
        return SpectrumTail(None, f"no tail: its {fit.n_tail} values lie within {percent:.2g} %")
    mean = float(np.mean(np.log(fit.tail / fit.xmin)))
    if mean < _CLOSEST:
        percent = 100 * math.expm1(mean)
        return SpectrumTail(
            None, f"no tail: its {fit.n_tail} values lie {percent:.2g} % above its start on average"
        )
    if small:
        return SpectrumTail(fit, few, few=True)
    if fit.n_tail < FEWEST_IN_TAIL:
        return SpectrumTail(fit, f"too few eigenvalues in the tail ({fit.n_tail} of {fit.n})")
    return SpectrumTail(fit)


def tied(values: Array, error: float = 0.0) -> int:
    """Count the tied largest values by the criteria above.

    Args:
        values: `(K,)` positive values, ascending.
        error: The largest difference that rounding may cause between equal values.

    Returns:
        How many of the largest values are tied; 0 if they are not.
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
    """Return Hill's tail index of the upper half or the 2m largest values, whichever are more.

    The m largest values are left out.
    """
    last = min(max(len(logs) // 2, 2 * m), len(logs)) - 1
    excess = float(np.sum(logs[m - 1 : last] - logs[last]))
    return (last - m + 1) / excess if excess > 0 else math.inf

"""Alarms during training, which a spectrum history raises when it records an unusual spectrum."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from bayes_htr.analysis.columns import random_columns
from bayes_htr.analysis.esd import esd_of
from bayes_htr.analysis.resampled import randomised
from bayes_htr.analysis.verdict import VERY_HEAVY
from bayes_htr.spectra import as_matrix
from bayes_htr.tails import fit_tail


@dataclass(frozen=True)
class SpectrumAlarm:
    """A property of one matrix that you should look at.

    Attributes:
        kind: `alpha` if the 95 % interval of alpha lies below 2 (WeightWatcher calls such a matrix
            over-trained), `traps` if single large entries make spikes that remain when the entries
            are put into random order, or `not finite` if some entries are not finite.
        matrix: The name of the matrix.
        step: The step of the record.
        value: Alpha, the number of traps, or the number of entries that are not finite.
    """

    kind: str
    matrix: str
    step: int
    value: float

    def __str__(self) -> str:
        what = {
            "alpha": f"alpha is {self.value:.2f}, below {VERY_HEAVY:g} with its whole interval",
            "traps": f"{self.value:g} eigenvalues come from single large entries (traps)",
            "not finite": f"{self.value:g} entries are not finite",
        }
        return f"step {self.step}, {self.matrix}: {what[self.kind]}"


AlarmCallback = Callable[[SpectrumAlarm], Any]
"""Called when an alarm begins; if it returns `True`, `htr.fit` ends training after the epoch."""


class AlarmWatch:
    """A watch that calls a callback when an alarm begins, and again only after the alarm ended.

    Attributes:
        stop: Whether the callback has asked to end training.
    """

    def __init__(self) -> None:
        self.stop = False
        self._sounding: set[tuple[str, str]] = set()

    def look(
        self, weights: Mapping[str, Tensor], spectra: Mapping[str, Tensor], step: int, call: Any
    ) -> None:
        """Examine the matrices of a record, and call `call` with every alarm that begins.

        Args:
            weights: The matrices by name.
            spectra: The `(K,)` eigenvalues of each matrix, descending.
            step: The step of the record.
            call: The callback.
        """
        alarms = [
            alarm
            for name, lam in spectra.items()
            for alarm in alarms_of(name, weights[name], lam, step)
        ]
        before, self._sounding = self._sounding, {(a.matrix, a.kind) for a in alarms}
        for alarm in alarms:
            if (alarm.matrix, alarm.kind) not in before and call(alarm) is True:
                self.stop = True


def alarms_of(name: str, W: Tensor, lam: Tensor, step: int) -> list[SpectrumAlarm]:
    """Return the alarms of one matrix.

    Args:
        name: The matrix.
        W: `(out, ...)` its weight.
        lam: `(K,)` its eigenvalues, descending.
        step: The step of the record.
    """
    matrix = as_matrix(W.detach())
    if not bool(lam.isfinite().all()):
        lost = int((~matrix.isfinite()).sum())
        return [SpectrumAlarm("not finite", name, step, float(lost))]
    alarms = []
    tail = fit_tail(lam.double().numpy())
    if tail.fit is not None and not tail.problem and tail.fit.interval[1] < VERY_HEAVY:
        alarms.append(SpectrumAlarm("alpha", name, step, tail.fit.alpha))
    if traps := _num_traps(matrix, name):
        alarms.append(SpectrumAlarm("traps", name, step, float(traps)))
    return alarms


def _num_traps(matrix: Tensor, name: str) -> int:
    """Return the number of eigenvalues above the bulk with the entries in random order, or 0."""
    esd = esd_of([matrix], name)
    if esd.values[-1] == 0 or not math.isfinite(float(np.sum(esd.values))):
        return 0
    return random_columns(randomised([matrix], esd, name, seed=0), esd)["num_traps"] or 0

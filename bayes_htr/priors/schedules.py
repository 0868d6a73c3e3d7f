"""Schedules of a prior's strength over the epochs, which keep it from regularising too much.

The strength is multiplied by `d(floor(epoch / period))` with `d(0) = 1`. It is 0 once this factor
is at or below a cutoff (Xiao et al. 2023, arXiv:2304.02911). Epochs count from 0.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

from bayes_htr.errors import PriorError
from bayes_htr.priors.values import Value, integer, number


@dataclass(frozen=True, repr=False)
class Schedule(Value, abstract=True):
    """A factor on the strength that depends on the epoch.

    Attributes:
        k: The rate of decay.
        period: The number of epochs for which the factor stays the same.
        cutoff: A factor at or below the cutoff is replaced by 0; in [0, 1), because the prior would
            never act with a cutoff of 1.

    Raises:
        PriorError: `k` is negative or infinite, the period is below 1, or the cutoff is outside
            [0, 1).
    """

    k: float = 1.0
    period: int = 1
    cutoff: float = 0.0

    def __post_init__(self) -> None:
        name = type(self).__name__
        object.__setattr__(self, "k", number(self.k, f"{name} k", at_least=0))
        object.__setattr__(self, "period", integer(self.period, f"{name} period", at_least=1))
        cutoff = number(self.cutoff, f"{name} cutoff", at_least=0, below=1)
        object.__setattr__(self, "cutoff", cutoff)

    def __call__(self, epoch: int) -> float:
        """Return the factor at an epoch, counted from 0.

        Raises:
            PriorError: The epoch is negative.
        """
        step = integer(epoch, "epoch", at_least=0) // self.period
        factor = self._decay(step) if step else 1.0
        return factor if factor > self.cutoff else 0.0

    @abstractmethod
    def _decay(self, x: int) -> float:
        """Return the decay after `x >= 1` periods."""


@dataclass(frozen=True, repr=False)
class PowerDecay(Schedule):
    """`d(x) = x^-k`, `d(0) = 1`: the first two periods have full strength."""

    def _decay(self, x: int) -> float:
        return float(x) ** -self.k


@dataclass(frozen=True, repr=False)
class ExpDecay(Schedule):
    """`d(x) = exp(-k x)`."""

    def _decay(self, x: int) -> float:
        return math.exp(-self.k * x)


def factor_at(schedules: tuple[Schedule, ...], epoch: int | None) -> float:
    """Return the product of the schedules at an epoch.

    Raises:
        PriorError: There is a schedule, but no epoch was given.
    """
    if schedules and epoch is None:
        raise PriorError(
            f"the prior is scheduled ({', '.join(map(repr, schedules))}): pass the epoch, "
            "counted from 0, as in energy(epoch=3)"
        )
    return math.prod(schedule(epoch) for schedule in schedules if epoch is not None)

"""Callbacks of a run, which are called after every epoch and at chosen steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class EpochEvent:
    """The argument of a callback after every epoch.

    Attributes:
        epoch: The number of epochs done, from 1.
        metrics: The epoch's metrics, as the run folder has them.
        network: The network as it is now; callbacks must not change it.
    """

    epoch: int
    metrics: dict[str, float]
    network: nn.Module


Callback = Callable[[EpochEvent], Any]
"""A callable that is called after every epoch; if it returns `True`, training ends."""


@dataclass(frozen=True)
class StepEvent:
    """The argument of the methods of a `StepCallback`.

    Attributes:
        step: The number of updates done, from 0.
        epoch: The number of epochs done, with a fraction; `None` if it is not known.
        network: The network as it is now, under SVI at the guide's centre; callbacks must not
            change it.
    """

    step: int
    epoch: float | None
    network: nn.Module


class StepCallback(ABC):
    """A callback that also sees the start, chosen steps, and the end of a run.

    A step that is not due costs one call of `is_due`.
    """

    def __call__(self, event: EpochEvent) -> Any:
        """Do nothing after an epoch; a subclass may do more."""
        return None

    @abstractmethod
    def is_due(self, step: int) -> bool:
        """Return whether `on_step` is to be called after this many updates."""

    @abstractmethod
    def on_start(self, event: StepEvent) -> None:
        """Act before the first update; a resumed run tells the updates done before."""

    @abstractmethod
    def on_step(self, event: StepEvent) -> None:
        """Act after an update that is due."""

    @abstractmethod
    def on_end(self, event: StepEvent) -> None:
        """Act once after the last update, before early stopping restores the best weights."""

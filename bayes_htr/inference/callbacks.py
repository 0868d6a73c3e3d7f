"""What a run shows to those who follow it: its epochs, and the steps within them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class EpochEvent:
    """What a callback is given after every epoch.

    Attributes:
        epoch: How many epochs are done, from 1.
        metrics: The epoch's metrics, also the line in the run folder.
        network: The network as it is now; not to be changed.
    """

    epoch: int
    metrics: dict[str, float]
    network: nn.Module


Callback = Callable[[EpochEvent], Any]
"""Called after every epoch; returning `True` ends training after it."""


@dataclass(frozen=True)
class StepEvent:
    """What a `StepCallback` is given.

    Attributes:
        step: How many updates are done, from 0.
        epoch: The same in epochs, with a fraction; `None` where it is not known.
        network: The network as it is now, under SVI at the guide's centre; not to be changed.
    """

    step: int
    epoch: float | None
    network: nn.Module


class StepCallback(ABC):
    """A callback that also sees the start, chosen steps, and the end of a run.

    A step that is not due costs one call of `is_due`.
    """

    def __call__(self, event: EpochEvent) -> Any:
        """Called after every epoch, as any other callback: nothing to do."""
        return None

    @abstractmethod
    def is_due(self, step: int) -> bool:
        """Whether `on_step` is to be called after this many updates."""

    @abstractmethod
    def on_start(self, event: StepEvent) -> None:
        """Called before the first update; of a resumed run with the updates done before."""

    @abstractmethod
    def on_step(self, event: StepEvent) -> None:
        """Called after an update that is due."""

    @abstractmethod
    def on_end(self, event: StepEvent) -> None:
        """Called once after the last update, before early stopping goes back to the best."""

"""The learning rate of an optimiser over the updates and epochs of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, ReduceLROnPlateau

from bayes_htr._checks import whole_number
from bayes_htr.inference.settings import TrainingSettings, kind_of


class Schedule:
    """A schedule of the learning rate, which steps after every epoch or after every update.

    Args:
        method: The settings of the run. Without a scheduler among them the rate is constant.
        optimizer: The optimiser.
        epochs: The number of epochs of the run.
        updates: The number of updates in an epoch.

    Attributes:
        steps_by_update: Whether the schedule steps after each update.

    Raises:
        ValueError: A scheduler that needs the score of an epoch is to step after each update.
    """

    def __init__(
        self, method: TrainingSettings, optimizer: Optimizer, *, epochs: int, updates: int
    ) -> None:
        self._optimizer = optimizer
        interval = method.scheduler_interval
        self._num_steps = max(1, epochs * (updates if interval == "step" else 1))
        self._is_own_cosine = method.scheduler == "cosine"
        self._scheduler: LRScheduler | ReduceLROnPlateau | None = None
        if method.scheduler == "cosine":
            self._scheduler = CosineAnnealingLR(optimizer, T_max=self._num_steps)
        elif method.scheduler is not None:
            self._scheduler = method.scheduler(optimizer)
        if interval == "step" and isinstance(self._scheduler, ReduceLROnPlateau):
            raise ValueError(
                "scheduler_interval='step': ReduceLROnPlateau looks at a score of each epoch; "
                "leave the interval at 'epoch'"
            )
        self.steps_by_update = interval == "step" and self._scheduler is not None

    @property
    def lr(self) -> float:
        """The present learning rate of the optimiser's first group."""
        return float(self._optimizer.param_groups[0]["lr"])

    def after_update(self) -> None:
        """Step after an update, if `steps_by_update`."""
        assert isinstance(self._scheduler, LRScheduler)
        self._scheduler.step()

    def after_epoch(self, metrics: Mapping[str, float]) -> None:
        """Step after an epoch, unless the schedule steps by update.

        Args:
            metrics: The metrics of the epoch. `ReduceLROnPlateau` looks at the validation NLL, or
                at the loss where there are no validation data.
        """
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(metrics.get("val_nll", metrics["loss"]))
        elif self._scheduler is not None and not self.steps_by_update:
            self._scheduler.step()

    def state(self) -> dict[str, Any] | None:
        """Return the state for a checkpoint; `None` without a scheduler."""
        return None if self._scheduler is None else self._scheduler.state_dict()

    def restore(self, state: Any, *, epoch: int, step: int) -> None:
        """Restore what `state` returned, also in a run of more or of fewer epochs.

        Args:
            state: The result of `state`.
            epoch: The number of epochs that are done.
            step: The number of updates that are done.

        Raises:
            ValueError: The state is that of another schedule.
            KeyError, TypeError, AttributeError: The state is not one of a schedule.
        """
        if self._scheduler is None:
            return
        _load_state(self._scheduler, state)
        if self._is_own_cosine and isinstance(self._scheduler, CosineAnnealingLR):
            done = step if self.steps_by_update else epoch
            stretch_cosine(self._scheduler, self._num_steps, done)


def stretch_cosine(scheduler: CosineAnnealingLR, epochs: int, done: int) -> None:
    """Make a restored cosine schedule end after another number of epochs.

    Args:
        scheduler: The schedule as a checkpoint has restored it; its optimiser gets the new rates.
        epochs: The number of epochs over which the learning rate now falls to zero.
        done: The number of epochs that are done.
    """
    if scheduler.T_max == epochs:
        return
    scheduler.T_max = epochs
    groups = scheduler.optimizer.param_groups
    for group, base in zip(groups, scheduler.base_lrs, strict=True):
        rate = _cosine_rate(float(base), epochs, done)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _cosine_rate(lr: float, epochs: int, done: int) -> float:
    """Compute the learning rate after `done` of `epochs`, by the scheduler's own recursion."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = CosineAnnealingLR(optimizer, T_max=epochs)
    for _ in range(done):
        optimizer.step()
        scheduler.step()
    return float(optimizer.param_groups[0]["lr"])


def _load_state(scheduler: LRScheduler | ReduceLROnPlateau, state: Any) -> None:
    """Load the state of a scheduler, after checking that it is one of this kind."""
    before = dict(scheduler.state_dict())
    if "last_epoch" in before:
        whole_number(state["last_epoch"], "last_epoch of the schedule")
    for name, value in before.items():
        if None not in (value, state.get(name)) and kind_of(state[name]) is not kind_of(value):
            raise ValueError(f"{name!r} of the schedule is {state[name]!r}")
    scheduler.load_state_dict(state)

"""Settings of the methods that train by mini-batch gradients: their checks and description."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from numbers import Number
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from bayes_htr._checks import number, whole_number

SchedulerFactory = Callable[[Optimizer], "LRScheduler | ReduceLROnPlateau"]


class TrainingSettings(Protocol):
    """The settings that `MAP` and `SVI` share."""

    @property
    def lr(self) -> float:
        """The learning rate."""
        ...

    @property
    def optimizer(self) -> Callable[..., Optimizer]:
        """A callable that makes the optimiser."""
        ...

    @property
    def scheduler(self) -> Literal["cosine"] | SchedulerFactory | None:
        """The schedule of the learning rate."""
        ...

    @property
    def scheduler_interval(self) -> Literal["epoch", "step"]:
        """Whether the schedule steps after each epoch or after each update."""
        ...

    @property
    def patience(self) -> int | None:
        """The number of epochs without a better validation NLL after which training ends."""
        ...

    @property
    def clip(self) -> float | None:
        """The norm to which a gradient is clipped."""
        ...


def check_settings(method: TrainingSettings) -> None:
    """Require the shared settings to be in their ranges.

    Raises:
        ValueError: A setting is out of its range.
    """
    number(method.lr, "lr", above=0)
    if not callable(method.optimizer):
        raise ValueError(
            f"optimizer={method.optimizer!r} must be callable, such as torch.optim.Adam"
        )
    if not (method.scheduler in ("cosine", None) or callable(method.scheduler)):
        raise ValueError(f"scheduler={method.scheduler!r} must be 'cosine', None, or callable")
    if method.scheduler_interval not in ("epoch", "step"):
        raise ValueError(
            f"scheduler_interval={method.scheduler_interval!r} must be 'epoch' or 'step'"
        )
    if method.patience is not None:
        whole_number(method.patience, "patience", at_least=1)
    if method.clip is not None:
        number(method.clip, "clip", above=0)


def describe_settings(method: TrainingSettings) -> dict[str, Any]:
    """Return the shared settings as plain data.

    Settings that earlier versions did not have are left out at their defaults.
    """
    steps = method.scheduler_interval == "step"
    return {
        "lr": float(method.lr),
        "optimizer": _describe(method.optimizer),
        "scheduler": _describe(method.scheduler),
        **({"scheduler_interval": "step"} if steps else {}),
        "patience": None if method.patience is None else int(method.patience),
        "clip": None if method.clip is None else float(method.clip),
    }


def _describe(setting: Any) -> Any:
    """Describe a callable by its name, a `partial` also by its arguments.

    The description is the same in every process, so that a resumed run is recognised.
    """
    if isinstance(setting, partial):
        return {
            "name": _describe(setting.func),
            "args": [_without_addresses(a) for a in setting.args],
            "kwargs": {k: _without_addresses(v) for k, v in setting.keywords.items()},
        }
    if setting is None or isinstance(setting, str):
        return setting
    if not hasattr(setting, "__qualname__"):  # an object that is callable
        return _without_addresses(setting)
    return setting.__qualname__  # without its module, which a script that is imported renames


def _without_addresses(argument: Any) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(argument))


def fused_adam(parameters: Iterable[Tensor], lr: float) -> Optimizer:
    """Make an Adam in one kernel; on a CPU its step takes half the time of Adam's own default."""
    return torch.optim.Adam(parameters, lr=lr, fused=True)


_SHAPED_ALIKE = ("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")
"""The entries of an optimiser's state that have the shape of their parameter."""


def restore_optimizer(optimizer: Optimizer, state: Any) -> None:
    """Load the state of an optimiser from a checkpoint.

    Raises:
        ValueError: The state is that of another optimiser, or of other parameters. PyTorch itself
            would notice that only in a later step.
        KeyError, TypeError, AttributeError, RuntimeError: The state is not one of an optimiser.
    """
    before = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for old, group in zip(before, optimizer.param_groups, strict=True):
        for name, value in old.items():
            if name not in group:
                raise ValueError(f"the optimiser's state lacks the setting {name!r}")
            if None not in (group[name], value) and kind_of(group[name]) is not kind_of(value):
                raise ValueError(f"the optimiser's setting {name!r} is {group[name]!r}")
        number(float(group["lr"]), "the optimiser's lr", at_least=0)
    for parameter, values in optimizer.state.items():
        for name in _SHAPED_ALIKE:
            value = values.get(name)
            if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                raise ValueError(
                    f"{name!r} of the optimiser has shape {tuple(value.shape)} for a parameter of "
                    f"shape {tuple(parameter.shape)}"
                )


def kind_of(value: Any) -> type:
    """Return the class of a setting; numbers, also in a tensor, are of one class."""
    return Number if isinstance(value, Number | Tensor) else type(value)

"""Settings of training that are any optimiser or schedule: checked, described, and replayed."""

from __future__ import annotations

import inspect
import math
import numbers
import operator
import re
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR


def fused_adam(parameters: Iterable[Tensor], lr: float) -> Optimizer:
    """Adam in one kernel, which on a CPU takes half the time of its own default, a loop."""
    return torch.optim.Adam(parameters, lr=lr, fused=True)


HYPER_LR = 0.05
"""The learning rate of hyperparameters and of their laws, whose coordinates have no unit."""


def is_positive(value: Any) -> bool:
    """Whether a setting is a positive finite number."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_number and 0 < float(value) < math.inf


def check_whole(name: str, value: Any, least: int) -> int:
    """A setting as a whole number from `least` on.

    Raises:
        ValueError: It is none.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ValueError(f"{name}={value!r} must be a whole number of at least {least}")
    return number


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether `optimizer.step` cannot do without a closure, as that of LBFGS."""
    parameters = inspect.signature(type(optimizer).step).parameters
    return "closure" in parameters and parameters["closure"].default is inspect.Parameter.empty


def cosine_rate(lr: float, epochs: int, done: int) -> float:
    """The learning rate after `done` of `epochs`, by the scheduler's own recursion."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = CosineAnnealingLR(optimizer, T_max=max(1, epochs))
    for _ in range(done):
        optimizer.step()
        scheduler.step()
    return float(optimizer.param_groups[0]["lr"])


def describe_setting(setting: Any) -> Any:
    """A callable by name, a `partial` with its arguments: the same in every process."""
    if isinstance(setting, partial):
        return {
            "name": describe_setting(setting.func),
            "args": [_shown(a) for a in setting.args],
            "kwargs": {k: _shown(v) for k, v in setting.keywords.items()},
        }
    if setting is None or isinstance(setting, str):
        return setting
    if not hasattr(setting, "__qualname__"):  # an object that is callable
        return _shown(setting)
    return setting.__qualname__  # its module is another name when a script is imported


def _shown(argument: Any) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(argument))  # addresses differ by process

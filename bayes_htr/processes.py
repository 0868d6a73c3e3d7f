"""The processes that train together: how many, which one this is, and how they are reached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bayes_htr.errors import ProcessError


def world_size() -> int:
    """How many processes train together: 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def meeting_device(device: torch.device) -> torch.device:
    """Where a tensor of this device has to be for all processes to exchange it."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return device


def gathered(value: Any) -> list[Any]:
    """A picklable value from every process, by rank."""
    values: list[Any] = [None] * world_size()
    with connected():
        dist.all_gather_object(values, value)
    return values


@contextmanager
def connected() -> Iterator[None]:
    """What connections raise in this block tells what has happened.

    Raises:
        ProcessError: Another process cannot be reached.
    """
    try:
        yield
    except RuntimeError as error:
        raise ProcessError(
            f"another process cannot be reached ({error}); it has ended, and its own output tells "
            "why; resume the run from its last checkpoint"
        ) from error


def all_sum(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes."""
    if world_size() == 1:
        return values
    result = values.detach().clone().to(meeting_device(values.device))
    with connected():
        dist.all_reduce(result)
    return result.to(values.device)

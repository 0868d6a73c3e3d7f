"""Training in several processes: which one this is, and what they tell each other.

Alone, nothing here talks to anyone. `docs/distributed.md` says what follows for data, randomness
and errors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from bayes_htr.errors import ProcessError
from bayes_htr.launcher import launched
from bayes_htr.processes import connected, gathered, rank, world_size

T = TypeVar("T")


def is_main() -> bool:
    """Whether this is the process that writes files, shows progress and prints."""
    return rank() == 0


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Join the processes that a launcher has started, if any, and leave them at the end.

    Args:
        device: `auto`, or a kind of device: `cpu` or `cuda`.

    Yields:
        The device of this process; alone, the one that was asked for.

    Raises:
        ValueError: A device that several processes cannot use.
    """
    if launched()[1] == 1:
        yield device
        return
    own = own_device(device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield str(own)
    finally:
        dist.destroy_process_group()


def own_device(device: str) -> torch.device:
    """The device of this process among those of its machine.

    Raises:
        ValueError: Neither `auto`, `cpu` nor `cuda`, or more processes than devices.
    """
    kind = device
    if device == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind not in ("cpu", "cuda"):
        raise ValueError(
            f"device={device!r} is not for several processes, each of which has one of its own; "
            "give 'auto', 'cpu' or 'cuda'"
        )
    if kind == "cpu":
        return torch.device("cpu")
    index, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if index >= there:
        raise ValueError(
            f"process {index} of this machine has no device of its own: there are {there} for "
            f"device={device!r}; start as many processes as devices, or give 'cpu'"
        )
    return torch.device("cuda", index)


def part(count: int) -> slice:
    """This process's contiguous part of `count` examples; the first ones get what is over."""
    base, over = divmod(count, world_size())
    start = rank() * base + min(rank(), over)
    return slice(start, start + base + (rank() < over))


def drawn_alike(items: Iterable[T], seed: int) -> Iterator[T]:
    """`items`, with what they draw from Torch's global generator the same in every process."""
    iterator = iter(items)
    state = torch.Generator().manual_seed(seed).get_state()
    while True:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(state)
            try:
                item = next(iterator)
            except StopIteration:
                return
            state = torch.get_rng_state()
        yield item


def align(tensors: Iterable[Tensor]) -> None:
    """Give tensors the values that they have in process 0."""
    if world_size() == 1:
        return
    with connected(), torch.no_grad():
        for tensor in tensors:
            values = tensor.detach().contiguous()
            dist.broadcast(values, src=0)
            if not is_main():
                tensor.copy_(values)


def from_main(make: Callable[[], T]) -> T:
    """What `make` returns in process 0, the only one to call it, for all of them.

    Raises:
        ProcessError: `make` raised; process 0 raises what it did.
    """
    if world_size() == 1:
        return make()
    result: list[Any] = [None]
    with together():
        if is_main():
            result = [make()]
    with connected():
        dist.broadcast_object_list(result, src=0)
    return result[0]


@contextmanager
def together() -> Iterator[None]:
    """An error of one process in this block becomes an error of all at its end.

    Raises:
        ProcessError: Another process raised something.
    """
    if world_size() == 1:
        yield
        return
    failure = None
    try:
        yield
    except ProcessError:  # the others know, or are gone
        raise
    except Exception as error:
        failure = error
    raise_failures(failure)


def raise_failures(failure: Exception | None) -> None:
    """Raise this process's failure, or else tell of another's; to be called in all of them.

    Raises:
        ProcessError: Another process has failed.
    """
    if world_size() == 1:
        return
    own = None if failure is None else f"{type(failure).__name__}: {failure}"
    for number, text in enumerate(gathered(own)):
        if failure is not None:
            raise failure
        if text is not None:
            raise ProcessError(f"process {number} of {world_size()} failed: {text}")


def check_same(settings: Mapping[str, Any]) -> None:
    """Hold the settings of a run to be the same in all processes.

    Raises:
        ValueError: They are not; it names the first that differs.
    """
    if world_size() == 1:
        return
    first, *others = gathered(dict(settings))
    for number, other in enumerate(others, start=1):
        for key, value in other.items():
            if value != first.get(key):
                raise ValueError(
                    f"{key} is {value!r} in process {number} and {first.get(key)!r} in process 0; "
                    "give all processes the same model, data and settings"
                )

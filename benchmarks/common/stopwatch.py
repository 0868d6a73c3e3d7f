"""Fair timing: the device is idle at both ends, Python collects no garbage, and runs take turns."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any, Protocol

import torch

Tick = Callable[[int], None]
"""Called with a number of steps after they have been taken, outside the timing."""


class Steps(Protocol):
    """Something that can take a number of steps."""

    def steps(self, count: int) -> None:
        """Take `count` steps."""


class Stopwatch:
    """Measures the seconds of a piece of work, with the device synchronised before and after.

    Args:
        device: Where the work runs.
        now: The clock.
    """

    def __init__(self, device: torch.device, now: Callable[[], float] = time.perf_counter) -> None:
        self._device = device
        self._now = now

    def __call__(self, work: Callable[[], Any]) -> float:
        """Do the work, and return the seconds that it took."""
        self._wait()
        start = self._now()
        work()
        self._wait()
        return self._now() - start

    def _wait(self) -> None:
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)


@contextmanager
def no_collection() -> Iterator[None]:
    """Collect garbage first, and none within the context."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def take_turns(
    runs: Sequence[Steps], steps: int, turn: int, watch: Stopwatch, tick: Tick
) -> list[float]:
    """Return the seconds that each run needs for `steps` steps, if the runs take turns.

    Other work on the machine then affects all runs alike. The order is reversed from one turn to
    the next.

    Args:
        runs: The runs.
        steps: The number of steps of each run.
        turn: The number of steps that a run takes before it is the turn of the next.
        watch: The stopwatch.
        tick: Called with the steps that have been taken.
    """
    seconds = [0.0] * len(runs)
    order = list(range(len(runs)))
    done = 0
    with no_collection():
        while done < steps:
            count = min(turn, steps - done)
            for i in order:
                seconds[i] += watch(lambda run=runs[i], n=count: run.steps(n))  # type: ignore[misc]
            order.reverse()
            done += count
            tick(count * len(runs))
    return seconds


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the least and the largest value."""
    return {"median": median(values), "min": min(values), "max": max(values)}

"""Fair timing: the device idle at both ends, no garbage collection, and runs that take turns."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any, Protocol

import torch

Tick = Callable[[int], None]
"""Called with a number of steps when they are done, outside of what is timed."""


class Steps(Protocol):
    """Something that goes on by a number of steps."""

    def steps(self, count: int) -> None:
        """Take `count` steps."""


class Stopwatch:
    """Seconds that a piece of work takes, with the device synchronised before and after.

    Args:
        device: Where the work runs.
        now: The clock.
    """

    def __init__(self, device: torch.device, now: Callable[[], float] = time.perf_counter) -> None:
        self._device = device
        self._now = now

    def __call__(self, work: Callable[[], Any]) -> float:
        """Do the work and return the seconds it took."""
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
    """Within it Python collects no garbage: what there is has been collected before."""
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
    """Seconds for `steps` steps of each run, which go on in turns.

    Whatever else the machine does then falls on all of them alike. The order is reversed from one
    turn to the next.

    Args:
        runs: The runs.
        steps: How many steps each of them takes.
        turn: How many steps a run takes before the next has its turn.
        watch: The stopwatch.
        tick: Told of the steps that are done.
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
    """Median, least and largest."""
    return {"median": median(values), "min": min(values), "max": max(values)}

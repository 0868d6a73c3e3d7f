"""Several fits at a time, each in a process of its own with threads of its own.

A small network cannot use several threads: they wait for each other at every layer, and on a busy
machine for a processor. Several such fits can be trained side by side instead.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from torch import nn

from bayes_htr._terminal import ProgressBar
from bayes_htr._torch import usable_device
from bayes_htr.errors import ProcessError

_SMALL = 2_000_000
_POLL = 0.2  # seconds between two updates of the progress bar

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """How the processor is shared out.

    Attributes:
        count: Processes that train at the same time.
        threads: Threads of PyTorch in each.
    """

    count: int
    threads: int

    @classmethod
    def chosen(
        cls,
        net: nn.Module,
        fits: int,
        *,
        device: str,
        threads: int | None = None,
        alone: bool = False,
    ) -> Workers:
        """By the size of the network: below two million parameters one thread for a fit.

        Several fits share out the cores; on an accelerator they follow each other.

        Args:
            net: The network.
            fits: How many fits there are.
            device: Where to train.
            threads: As given by the user, or `None`.
            alone: Whether fits follow each other in this process.

        Raises:
            ValueError: Fewer than one thread, or a device that does not exist.
        """
        if threads is not None and threads < 1:
            raise ValueError(f"--threads {threads}: give at least 1")
        cores = available_cores()
        if threads is None:
            small = sum(p.numel() for p in net.parameters()) < _SMALL
            threads = 1 if small else min(torch.get_num_threads(), cores)
        if device == "auto":
            accelerated = torch.accelerator.is_available()
        else:
            accelerated = usable_device(device).type != "cpu"
        if alone or accelerated:
            return cls(1, threads)
        return cls(max(1, min(fits, cores // threads)), threads)

    def __str__(self) -> str:
        at_a_time = "one fit" if self.count == 1 else f"{self.count} fits"
        return f"{at_a_time} at a time, {plural(self.threads, 'thread')} each"


def available_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_parallel(
    work: Callable[..., Mapping[str, float]],
    jobs: Sequence[Any],
    workers: Workers,
    *,
    epochs: int,
    note: Callable[[int, Mapping[str, float]], None],
    progress: bool | None = None,
) -> list[Mapping[str, float]]:
    """Run jobs in processes; the first error ends them all and is raised.

    Args:
        work: Called as `work(job, progress=False, on_epoch=...)`; it can be pickled.
        jobs: What it is called with; they can be pickled.
        workers: How many at a time.
        epochs: How many epochs all jobs have together, for the progress bar.
        note: Called with the number and the result of each job that has ended.
        progress: Whether to show a bar; by default where standard error is a terminal.

    Returns:
        The results in the order of the jobs.

    Raises:
        ProcessError: A process ended without a result, as one that the system has killed.
    """
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    results: dict[int, Mapping[str, float]] = {}
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        workers.count,
        mp_context=context,
        initializer=_start_worker,
        initargs=(workers.threads, counter),
    )
    try:
        with _FitsBar(progress, len(jobs), epochs) as bar:
            waiting: dict[Future[Any], int] = {
                pool.submit(partial(_work, work), job): number for number, job in enumerate(jobs)
            }
            while waiting:
                done, _ = wait(waiting, timeout=_POLL, return_when=FIRST_COMPLETED)
                for future in done:
                    number = waiting.pop(future)
                    results[number] = future.result()
                    note(number, results[number])
                bar.show(len(results), counter.value)
    except BrokenProcessPool as error:
        raise ProcessError(
            "a training process was ended from outside, by the system for want of memory for "
            "instance; go on with --resume, and train fewer fits at a time by a higher --threads"
        ) from error
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()  # every file is written aside and renamed: no half ones
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return [results[number] for number in range(len(jobs))]


class _FitsBar(ProgressBar):
    """A bar over the epochs of all fits."""

    def __init__(self, show: bool | None, fits: int, epochs: int) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs, {task.fields[fits]} fits"),
            TimeRemainingColumn(),
        )
        self._fits = fits
        super().__init__(columns, show, description="training", total=epochs, fits=f"0 of {fits}")

    def show(self, fits: int, epochs: int) -> None:
        """So many fits and epochs are done."""
        self._progress.update(self._task, completed=epochs, fits=f"{fits} of {self._fits}")


_counter: Any = None
"""Of a worker process: the epochs that all of them have done."""


def _start_worker(threads: int, counter: Any) -> None:
    global _counter
    _counter = counter
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the first one has ended, whatever ended it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _count_epoch() -> None:
    with _counter.get_lock():
        _counter.value += 1


def _work(work: Callable[..., T], job: Any) -> T:
    return work(job, progress=False, on_epoch=_count_epoch)


def plural(count: int, word: str) -> str:
    """So many of what a word says."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"

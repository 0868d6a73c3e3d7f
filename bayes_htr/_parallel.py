"""Several fits at a time, each in its own process with its own threads.

A small network does not become faster with several threads, because they wait for each other at
every layer, and on a busy machine for a processor. Several such fits can be trained at the same
time instead.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from bayes_htr._terminal import ProgressBar, plural
from bayes_htr._threads import suitable_threads
from bayes_htr._torch import usable_device
from bayes_htr.errors import ProcessError

_POLL = 0.2  # seconds between two updates of the progress bar

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """The number of processes and threads.

    Attributes:
        count: Processes that train at the same time.
        threads: PyTorch threads in each process.
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
        multiply_adds: float = 0,
        threads: int | None = None,
        alone: bool = False,
    ) -> Workers:
        """Return the numbers of processes and threads for fits of a network.

        Each fit of a small network has one thread (`suitable_threads`). Several fits divide the
        cores between them. On an accelerator they run one after the other.

        Args:
            net: The network.
            fits: Number of fits.
            device: Where to train.
            multiply_adds: The multiply-adds of the forward pass of a batch.
            threads: Number of threads given by the user, or `None`.
            alone: Whether the fits run one after the other in this process.

        Raises:
            ValueError: `threads` is less than 1, or the device does not exist.
        """
        if threads is not None and threads < 1:
            raise ValueError(f"--threads {threads}: give at least 1")
        cores = available_cores()
        if threads is None:
            threads = min(suitable_threads(net, multiply_adds), cores)
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
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_jobs(
    work: Callable[..., T],
    jobs: Sequence[Any],
    workers: Workers,
    *,
    epochs: int,
    note: Callable[[int, T], None] = lambda number, result: None,
    progress: bool | None = None,
    units: tuple[str, str] = ("epochs", "fits"),
) -> list[T]:
    """Run jobs, several at a time in processes of their own; the first error ends all of them.

    A single worker is this process, which then runs one job after another.

    Args:
        work: Called as `work(job, progress=False, on_epoch=...)`; picklable for several workers.
        jobs: The jobs; picklable for several workers.
        workers: How many run at a time.
        epochs: Total number of epochs of all jobs, for the progress bar.
        note: Called with the number and the result of each finished job.
        progress: Whether to show a progress bar; by default if standard error is a terminal.
        units: The words by which the bar calls the epochs and the jobs.

    Returns:
        The results in the order of the jobs.

    Raises:
        ProcessError: A process ended without a result, for example because the system killed it.
    """
    if workers.count > 1:
        return _run_in_processes(work, jobs, workers, epochs, note, progress, units)
    found: list[T] = []
    with _FitsBar(progress, len(jobs), epochs, units) as bar:
        for number, job in enumerate(jobs):
            found.append(work(job, progress=False, on_epoch=bar.advance))
            note(number, found[-1])
            bar.show(len(found))
    return found


def _run_in_processes(
    work: Callable[..., T],
    jobs: Sequence[Any],
    workers: Workers,
    epochs: int,
    note: Callable[[int, T], None],
    progress: bool | None,
    units: tuple[str, str],
) -> list[T]:
    """Run jobs as `run_jobs` does, in several processes that are started for them."""
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    results: dict[int, T] = {}
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        workers.count,
        mp_context=context,
        initializer=_start_worker,
        initargs=(workers.threads, counter),
    )
    try:
        with _FitsBar(progress, len(jobs), epochs, units) as bar:
            with _blocked_interrupts():  # also in the processes, which start now
                waiting: dict[Future[Any], int] = {
                    pool.submit(partial(_work, work), job): number
                    for number, job in enumerate(jobs)
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
            "a training process was ended from outside, for instance by the system because memory "
            "ran out; resume the run (resume=True, --resume) with fewer fits at a time "
            "(processes=, a higher --threads). A script that starts processes needs "
            "`if __name__ == '__main__':` around what it runs"
        ) from error
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()  # every file is written aside and renamed: no half ones
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return [results[number] for number in range(len(jobs))]


def packed(value: Any) -> bytes:
    """Return a value pickled, as it is sent to another process.

    Raises:
        ValueError: The value cannot be pickled.
    """
    try:
        return pickle.dumps(value)
    except Exception as error:  # whatever the classes of the user raise
        raise ValueError(
            f"the model, its data or its method cannot be sent to other processes ({error}); fit "
            "in one process, or define the classes and functions that they use in a module"
        ) from error


@contextlib.contextmanager
def _blocked_interrupts() -> Iterator[None]:
    """Delay interruptions until the end of the block; processes started in it get none.

    A terminal sends an interruption to all processes of a command. The first process ends the
    others, which would otherwise print tracebacks while they import their modules.
    """
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _FitsBar(ProgressBar):
    """A bar over the epochs of all fits, or whatever the units are."""

    def __init__(self, show: bool | None, fits: int, epochs: int, units: tuple[str, str]) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"{units[0]}, {{task.fields[fits]}} {units[1]}"),
            TimeRemainingColumn(),
        )
        self._fits = fits
        super().__init__(columns, show, description="training", total=epochs, fits=f"0 of {fits}")

    def show(self, fits: int, epochs: int | None = None) -> None:
        """Show the number of finished fits, and that of epochs unless it has been counted."""
        self._progress.update(self._task, completed=epochs, fits=f"{fits} of {self._fits}")


_counter: Any = None
"""In a worker process, the number of epochs that all workers have finished."""


def _start_worker(threads: int, counter: Any) -> None:
    global _counter
    _counter = counter
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent has ended, for whatever reason."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _count_epoch() -> None:
    with _counter.get_lock():
        _counter.value += 1


def _work(work: Callable[..., T], job: Any) -> T:
    return work(job, progress=False, on_epoch=_count_epoch)

"""Many jobs on small matrices at once, each on one thread.

A matrix of a few hundred columns gains little from a second thread, because the threads have only
microseconds of work between two synchronisations. It can lose a hundredfold, because the threads of
torch and of NumPy's BLAS wait for their next work in a busy loop and keep each other from the
processor. Therefore a small matrix has one thread, and several are decomposed at a time; large ones
follow one by one, with all threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from importlib import import_module
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

T = TypeVar("T")

_SMALL_SIDE = 1024  # the shorter side
_SMALL_SIZE = 2**23  # entries: several matrices are in memory at a time
_MOST_WORKERS = 16


def is_small(sides: tuple[int, int], entries: int) -> bool:
    """Whether a weight of so many entries, with matrices of these sides, has one thread."""
    return min(sides) <= _SMALL_SIDE and entries <= _SMALL_SIZE


@contextmanager
def single_threaded() -> Iterator[None]:
    """Limit each operator of torch and each call of NumPy's and SciPy's BLAS to one thread.

    This holds in the whole process, also for threads that are started meanwhile. Afterwards the
    limits are as before.
    """
    import_module("scipy.stats")  # only libraries that are loaded are limited
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


def run_all(job: Callable[[int], T], work: Sequence[float], small: Sequence[bool]) -> list[T]:
    """Compute `job(0)`, `job(1)`, ...

    Small jobs run at once, the longest first, in as many threads as torch would use (at most 16);
    then the others run in this thread. After an error no other job begins.

    Args:
        job: Called with each index.
        work: How long each job takes, in any unit.
        small: Whether each job is on small matrices.
    """
    longest_first = sorted((i for i in range(len(work)) if small[i]), key=lambda i: -work[i])
    workers = min(torch.get_num_threads(), len(longest_first), _MOST_WORKERS)
    results: dict[int, T] = {}
    if longest_first:
        with single_threaded():
            if workers == 1:
                results |= {i: job(i) for i in longest_first}
            else:
                results |= _run_in_threads(job, longest_first, workers)
    return [results[i] if small[i] else job(i) for i in range(len(work))]


def _run_in_threads(job: Callable[[int], T], indices: Sequence[int], workers: int) -> dict[int, T]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="analyze")
    try:
        futures = {i: pool.submit(job, i) for i in indices}
        done, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()  # raises what the job has raised
        return {i: future.result() for i, future in futures.items()}
    finally:
        pool.shutdown(cancel_futures=True)

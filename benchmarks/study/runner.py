"""Runs in processes of their own, each with its own threads, and a bar that shows the progress.

Every process starts afresh ("spawn"), with `OMP_NUM_THREADS` set before PyTorch is loaded.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

import bayes_htr as htr
from bayes_htr._terminal import ProgressBar
from benchmarks.study.log import Log
from benchmarks.study.runs import Run

_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
)

Work = Callable[[Run], dict[str, Any]]
"""Performs a run; can be pickled."""


def missing_runs(log: Log, runs: Sequence[Run]) -> list[Run]:
    """Return the runs whose results are not in the log."""
    return [run for run in runs if log.find("run", **run.settings()) is None]


def run_all(
    label: str,
    runs: Sequence[Run],
    work: Work,
    done: Callable[[Run, dict[str, Any]], None],
    *,
    processes: int,
    threads: int,
) -> None:
    """Perform runs, in about their order. An error or an interruption ends all processes at once.

    Args:
        label: What the bar says.
        runs: The runs.
        work: Performs one of them.
        done: Called with each run and its result as soon as it has ended.
        processes: The number of runs at a time.
        threads: Threads of PyTorch in each process.

    Raises:
        ProcessError: A process was killed.
        Exception: What a run has raised.
    """
    if not runs:
        return
    others = set(multiprocessing.active_children())
    bar = ProgressBar(_COLUMNS, None, description=label, total=len(runs))
    with _threads_of_children(threads), bar:
        pool = ProcessPoolExecutor(
            processes,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(threads,),
        )
        try:
            futures = {pool.submit(work, run): run for run in runs}
            for future in as_completed(futures):
                done(futures[future], future.result())
                bar.advance()
        except BaseException as error:
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
            if isinstance(error, BrokenProcessPool):
                raise htr.ProcessError(
                    f"{label}: a process was killed, perhaps because memory ran out; run the "
                    "command again with fewer --processes: it continues with what is left"
                ) from error
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(threads: int) -> None:
    """Set up a process. Ctrl-C goes to all processes, and the first one decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process as soon as the process that started it has ended, for whatever reason."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def _threads_of_children(count: int) -> Iterator[None]:
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(count)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before

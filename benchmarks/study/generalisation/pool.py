"""Runs spread over processes, each with threads of its own, and a bar that shows how far they are.

Every process starts afresh ("spawn") with `OMP_NUM_THREADS` set before PyTorch is loaded.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bayes_htr._terminal import ProgressBar
from bayes_htr.errors import ProcessError
from benchmarks.study.generalisation.fits import Run, perform

_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
)


class Pool:
    """Processes that perform runs, and end at once where an error or an interruption leaves it.

    Args:
        processes: How many.
        threads: Of PyTorch in each.
        data_dir: Where data sets are.
        device: Where to train.
    """

    def __init__(self, processes: int, threads: int, data_dir: Path | None, device: str) -> None:
        self._data_dir, self._device = data_dir, device
        self._threads = threads
        context = multiprocessing.get_context("spawn")
        # An event would wait for a process that was killed while it waited for the event.
        self._reader, self._writer = context.Pipe(duplex=False)
        self._executor = ProcessPoolExecutor(
            processes, mp_context=context, initializer=_begin, initargs=(threads, self._reader)
        )

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            self._writer.close()
        self._executor.shutdown(cancel_futures=True)
        self._writer.close()
        self._reader.close()

    def work(
        self,
        label: str,
        runs: Sequence[Run],
        done: Callable[[Run, dict[str, Any]], None],
    ) -> None:
        """Perform runs, in about their order.

        Args:
            label: What the bar says.
            runs: The runs.
            done: Told of each run with its result, as they end.

        Raises:
            ProcessError: A process was killed.
            Exception: What a run failed with, otherwise than by diverging.
        """
        bar = ProgressBar(_COLUMNS, None, description=label, total=len(runs))
        with _threads_of_children(self._threads), bar:
            futures: dict[Future[dict[str, Any]], Run] = {
                self._executor.submit(perform, run, self._data_dir, self._device): run
                for run in runs
            }
            for future in as_completed(futures):
                run = futures[future]
                try:
                    result = future.result()
                except BrokenProcessPool as error:
                    raise ProcessError(
                        f"{label}: a process was killed, perhaps for want of memory; run the "
                        "command again with fewer --processes: it goes on with what is left"
                    ) from error
                done(run, result)
                bar.advance()


def _begin(threads: int, reader: Connection) -> None:
    """Set up a process, which ends when the one that started it does, however that ends.

    Ctrl-C in a terminal goes to all processes: it is the first that decides.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with, args=(reader,), daemon=True).start()


def _end_with(reader: Connection) -> None:
    """End this process when the other end of a pipe, which only the first holds, is closed."""
    with suppress(EOFError, OSError):
        reader.recv()
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

"""Several fits at a time: how many, in which order, and what ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from bayes_htr._parallel import Workers, available_cores, run_jobs
from bayes_htr._threads import restored_threads

ROOT = Path(__file__).parents[1]


def work(job, *, progress, on_epoch):
    """Count an epoch; a job is a number, an error, or a file to write the process's id to."""
    on_epoch()
    if isinstance(job, ValueError):
        raise job
    if isinstance(job, Path):
        job.write_text(str(os.getpid()))
        time.sleep(600)
    return {"squared": job**2}


def run(jobs, note=lambda number, result: None, count=2):
    workers = Workers(count=count, threads=1)
    return run_jobs(work, jobs, workers, epochs=len(jobs), note=note, progress=False)


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_the_order_of_the_jobs(count):
    noted = {}
    found = run([3, 1, 2], noted.__setitem__, count)
    assert [row["squared"] for row in found] == [9, 1, 4]
    assert noted == dict(enumerate(found))


def test_the_first_error_is_raised():
    with pytest.raises(ValueError, match="this one"):
        run([1, ValueError("this one"), 2])


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_no_process_outlives_a_killed_one(tmp_path):
    files = [tmp_path / "one", tmp_path / "two"]
    code = (
        "from pathlib import Path\n"
        "from tests.test_parallel import run\n"
        f"if __name__ == '__main__':\n    run([Path(p) for p in {[str(f) for f in files]}])\n"
    )
    script = tmp_path / "killed.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    first = subprocess.Popen([sys.executable, str(script)], env=environment)
    try:
        wait_for(lambda: all(file.exists() and file.read_text() for file in files))
        pids = [int(file.read_text()) for file in files]
        assert all(map(is_running, pids))
    finally:
        first.kill()
        first.wait()
    wait_for(lambda: not any(map(is_running, pids)))


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not happened in time"
        time.sleep(0.05)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/status")
    return not (status.exists() and "State:\tZ" in status.read_text())


def test_threads_go_by_the_size_of_the_network():
    small, large = nn.Linear(10, 10), nn.Linear(1500, 1500)
    cores = available_cores()
    assert Workers.chosen(small, 20, device="cpu") == Workers(min(20, cores), 1)
    assert Workers.chosen(small, 1, device="cpu") == Workers(1, 1)
    assert Workers.chosen(small, 20, device="cpu", alone=True) == Workers(1, 1)
    assert Workers.chosen(small, 20, device="cpu", threads=cores) == Workers(1, cores)
    assert Workers.chosen(large, 20, device="cpu").threads >= 1
    with restored_threads():
        torch.set_num_threads(2)
        work = {"device": "cpu", "multiply_adds": 2**30}
        assert Workers.chosen(small, 1, **work).threads == min(2, cores)  # as htr.fit has it
    with pytest.raises(ValueError, match="--threads 0"):
        Workers.chosen(small, 1, device="cpu", threads=0)
    assert str(Workers(2, 1)) == "2 fits at a time, 1 thread each"
    assert str(Workers(1, 4)) == "one fit at a time, 4 threads each"

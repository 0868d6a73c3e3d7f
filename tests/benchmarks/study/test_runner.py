"""Runs in processes of their own, and what ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from bayes_htr.errors import DataError
from benchmarks.study.cells import Base
from benchmarks.study.runner import run_all
from benchmarks.study.runs import Run, perform
from benchmarks.study.studies import STUDIES
from tests.processes import heed_interruptions

LONG = ["study", "generalisation", "--cells", "mlp-digits", "--epochs", "9000"]
LONG += ["--methods", "none", "weight_decay", "--processes", "1", "--out"]


def test_runs_in_a_process(tmp_path, monkeypatch):
    """In a process of its own a run gives the same as in this one; an error ends the process."""
    study = STUDIES["generalisation"]
    run = Run(
        "mlp-digits", "weight_decay", {"mu": 1e-3}, Base(1, 0.05, "cosine"), 3, {}, tested=False
    )
    done = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    work = partial(perform, study, data_dir=tmp_path, device="cpu")
    with pytest.raises(DataError, match=r"kmnist\.npz"):
        run_all(
            "runs",
            [run, replace(run, cell="mlp-kmnist")],
            work,
            lambda *found: done.append(found),
            processes=1,
            threads=1,
        )
    [(same, result)] = done
    assert same == run
    assert result["validation"] == perform(study, run, None, "cpu")["validation"]
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.mark.slow
@pytest.mark.parametrize("what", ["ctrl-c", "terminated", "a process killed"])
def test_an_interrupted_study(tmp_path, what):
    """It ends at once with its processes, though their runs would take minutes."""
    words = [sys.executable, "-m", "benchmarks", *LONG, str(tmp_path)]
    with subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interruptions
    ) as process:
        children, worker = [], None
        while worker is None:
            assert process.poll() is None
            time.sleep(0.1)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            commands = {c: Path(f"/proc/{c}/cmdline").read_bytes() for c in children}
            worker = next((c for c, words in commands.items() if b"spawn_main" in words), None)
        while float(Path(f"/proc/{worker}/stat").read_text().split()[13]) < 500:
            time.sleep(0.1)  # until it has had the processor for 5 s: it trains
        number, status, message = {
            "ctrl-c": (signal.SIGINT, 130, "the same command goes on"),
            "terminated": (signal.SIGTERM, -signal.SIGTERM, ""),
            "a process killed": (signal.SIGKILL, 1, "run the command again with fewer"),
        }[what]
        os.kill(int(worker) if what == "a process killed" else process.pid, number)
        started = time.monotonic()
        assert process.wait(20) == status
        assert time.monotonic() - started < 10
        assert message in process.stderr.read()
    while left := [c for c in children if Path(f"/proc/{c}").exists()]:
        assert time.monotonic() - started < 15, left
        time.sleep(0.1)

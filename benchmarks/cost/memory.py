"""The largest memory of a process that takes some steps: `python -m benchmarks.cost.memory`.

Each run has a process of its own, so that nothing that another one left counts. The kernel's
high-water mark is read (`VmHWM`, Linux), and what the process had before the run began.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from bayes_htr._torch import isolated_randomness
from bayes_htr.errors import ProcessError
from benchmarks.cost.guide_runs import TIMED, Work

_STATUS = Path("/proc/self/status")
_CLONE = Path(__file__).parents[2]


def measure_memory(name: str, work: Work, steps: int) -> dict[str, float]:
    """Peak memory of a run in a fresh process.

    Args:
        name: A key of `TIMED`.
        work: Its size and seed; the data are drawn anew.
        steps: How many steps are taken.

    Returns:
        `before_mb`, resident once the libraries and the data are there, `peak_mb`, and `own_mb`,
        the difference: what the network, its training and one step take.

    Raises:
        ProcessError: The process failed; its last words are in the message.
    """
    words = [str(n) for n in (len(work.x), work.batch_size, work.seed, steps)]
    threads = str(torch.get_num_threads())
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cost.memory", name, *words, threads],
        cwd=_CLONE,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ProcessError(f"{name}: no memory was measured: {done.stderr.strip()[-500:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _field(name: str) -> float:
    """A figure of the process's memory in MB."""
    for line in _STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"{_STATUS} has no {name}")


def _own(name: str, examples: int, batch_size: int, seed: int, steps: int) -> dict[str, float]:
    """The same of the process that this is."""
    work = Work.random(examples, batch_size, seed)
    before = _field("VmRSS")
    with isolated_randomness():
        TIMED[name].run(work).steps(steps)
    peak = _field("VmHWM")
    return {"before_mb": before, "peak_mb": peak, "own_mb": peak - before}


if __name__ == "__main__":
    named, *numbers, own_threads = sys.argv[1:]
    torch.set_num_threads(int(own_threads))
    print(json.dumps(_own(named, *(int(n) for n in numbers))))

"""Scripts in two processes: for tests of what processes do together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

import bayes_htr as htr

PATHS = (Path(htr.__file__).parents[1], Path(__file__).parents[1])  # the package, and the tests


def torchrun(processes):
    """The command that starts a script, or a module by `-m`, in several processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, "--nproc-per-node", str(processes)]


TORCHRUN = torchrun(2)
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, PATHS)), "OMP_NUM_THREADS": "1"}


def heed_interruptions():
    """A shell that starts the tests in the background lets its processes ignore interruptions."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def found_by(script, out, timeout=300):
    """Run a script that saves what each of its cases found in `out`.

    Returns:
        What a case found, by rank, as a function of its name.
    """
    command = [*TORCHRUN, script, str(out)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return lambda name: [
        torch.load(out / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1)
    ]


def difference(a, b):
    """The largest difference of two dictionaries of tensors."""
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)

"""What a timing was taken on: facts of the machine and of the software, and no names or paths."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

import bayes_htr

_PATHS = ("--data-dir", "--out")
COMPARABLE = ("cpu", "gpu", "cores", "threads", "torch", "bayes_htr")
"""The facts that must agree for results to be put into one table."""


def machine_facts(device: torch.device, argv: Sequence[str]) -> dict[str, Any]:
    """The facts, as plain data.

    Args:
        device: Where the networks are trained.
        argv: The words of the command line after `python -m benchmarks`.
    """
    return {
        "cpu": _cpu(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "bayes_htr": bayes_htr.__version__,
        "date": f"{datetime.now():%Y-%m-%d}",
        "command": command_line(argv),
    }


def command_line(argv: Sequence[str]) -> str:
    """The command as one would type it, with `DIR` for every folder."""
    shown: list[str] = []
    for word in argv:
        option, _, value = word.partition("=")
        if shown and shown[-1] in _PATHS:
            shown.append("DIR")
        elif value and option in _PATHS:
            shown.append(f"{option}=DIR")
        else:
            shown.append(word)
    return " ".join(["python -m benchmarks", *shown])


def _cpu() -> str:
    """The processor's model."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(models), platform.processor() or platform.machine())

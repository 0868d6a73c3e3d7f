"""Energies of weights that several processes shard, beside those of one process.

Each process has a GPU of its own, and they communicate by NCCL; on the CPU they do so by gloo. The
matrices are `4n x n` and `n x 4n`.
"""

from __future__ import annotations

import json
import os
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

import bayes_htr as htr
from benchmarks.common.results import Results
from benchmarks.common.stopwatch import Stopwatch, Tick
from benchmarks.common.tables import TextTable
from benchmarks.sharded import LAWS, network, sharded

PART = "sharded"
"""The name of the measurement among results."""
ROUNDS = 3
"""How often each call is timed."""


def measure_sharded(
    law: str, n: int, tick: Tick, *, device: str, processes: int, threads: int
) -> dict[str, Any]:
    """Agreement with one process, and milliseconds of a call.

    Args:
        law: A name of `LAWS`.
        n: The smaller side of the matrices.
        tick: Called at the end.
        device: `"cpu"` or `"cuda"`.
        processes: The number of processes; on `"cuda"`, at most that of the devices.
        threads: Threads of PyTorch in each process.

    Returns:
        `energy_error` and `gradient_error`, relative to one process; `alone_ms`, a refresh in one
        process; `refresh_ms`, a refresh in all; `cached_ms`, a call with cached gradients; and
        `processes`.
    """
    with tempfile.TemporaryDirectory() as folder:
        given = (processes, folder, law, n, device, threads)
        start_processes(_process, given, processes, start_method="spawn")
        tick(1)
        found: dict[str, Any] = json.loads((Path(folder) / "found.json").read_text())
        return found


def _process(
    rank: int, processes: int, folder: str, law: str, n: int, kind: str, threads: int
) -> None:
    torch.set_num_threads(threads)
    device = torch.device("cpu")
    if kind == "cuda":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    dist.init_process_group(
        "nccl" if kind == "cuda" else "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=processes,
    )
    try:
        found = _measured(law, n, device)
        if rank == 0:
            (Path(folder) / "found.json").write_text(json.dumps(found))
    finally:
        dist.destroy_process_group()


def _measured(law: str, n: int, device: torch.device) -> dict[str, float]:
    sides, priors = [(4 * n, n), (n, 4 * n)], htr.Priors(LAWS[law])
    one, parts = network(sides).to(device), sharded(sides, device)
    alone = htr.bind(priors, one, refresh=htr.Exact(), share=False)
    exact = htr.bind(priors, parts, refresh=htr.Exact())
    cached = htr.bind(priors, parts, refresh=htr.Drift())
    value, found = float(alone.backward()), float(exact.backward())
    pairs = zip(one.parameters(), parts.parameters(), strict=True)
    errors = [_distance(part.grad, whole.grad) for whole, part in pairs]
    cached.backward()
    watch = Stopwatch(device)

    def milliseconds(energy: htr.SpectralEnergy) -> float:
        return 1e3 * median(watch(partial(energy.backward, 0.0)) for _ in range(ROUNDS))

    return {
        "processes": dist.get_world_size(),
        "energy_error": abs(found / value - 1),
        "gradient_error": max(errors),
        "alone_ms": milliseconds(alone),
        "refresh_ms": milliseconds(exact),
        "cached_ms": milliseconds(cached),
    }


def _distance(part: Tensor | None, whole: Tensor | None) -> float:
    """The relative distance of a gradient, of which this process has a part, from the whole."""
    assert part is not None
    assert whole is not None
    full: Tensor = part.full_tensor()  # type: ignore[attr-defined]
    return float((full - whole).double().norm() / whole.double().norm())


def sharded_table(results: Results) -> TextTable:
    """Agreement and times, where they are measured."""
    columns = ("n", "law", "processes", "energy error", "gradient error")
    times = ("one process ms", "refresh ms", "cached ms")
    rows = [
        [
            *cell.split("/"),
            str(r["processes"]),
            f"{r['energy_error']:.1e}",
            f"{r['gradient_error']:.1e}",
            *(f"{r[name]:.2f}" for name in ("alone_ms", "refresh_ms", "cached_ms")),
        ]
        for cell in results.cells
        if (r := results.result(cell, PART)) is not None
    ]
    return TextTable("Sharded weights", (*columns, *times), rows)

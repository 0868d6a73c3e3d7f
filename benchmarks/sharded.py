"""`python -m benchmarks.sharded`: what processes with parts of a network send, compute and hold.

Bytes are those that a process gives to the collectives of an energy, without those of FSDP. Work is
counted in floating-point operations. Memory is the peak of resident memory beyond what the weights
and their gradients take, on one tall matrix.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import pickle
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import start_processes

import bayes_htr as htr
from bayes_htr.engine.sharded_energy import ShardedMatrixEnergy
from bayes_htr.spectra.shards import SUMMED
from bayes_htr.spectra.view import plan

LAWS = {
    "leading": htr.MaxEigenvalue(htr.Frechet(2.0, 1.0)),
    "log det": htr.ESD(htr.Lomax(2.0, 1.0)),
    "all": htr.ESD(htr.Gamma(2.0, 1.0)),
}
CPU = torch.device("cpu")
_M_MMAP_THRESHOLD = -3
SIDES = [(512, 128)] * 4 + [(128, 512)] * 4
"""The shapes of the matrices whose communication is counted: tall ones and wide ones."""


def network(sides: list[tuple[int, int]]) -> nn.Module:
    """Layers of these shapes, the same in all processes."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(columns, rows, bias=False) for rows, columns in sides))


def sharded(sides: list[tuple[int, int]], device: torch.device = CPU) -> nn.Module:
    """Return the same layers under `fully_shard`."""
    net = network(sides).to(device)
    fully_shard(net, mesh=init_device_mesh(device.type, (dist.get_world_size(),)))
    return net


@contextmanager
def counted(bytes_of: Counter[str]) -> Iterator[None]:
    """Count the bytes that this process gives to collectives, by their names."""

    def wrapped(name: str, size: Callable[..., int]) -> Any:
        original = getattr(dist, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            bytes_of[name] += size(*args)
            return original(*args, **kwargs)

        return mock.patch.object(dist, name, call)

    def of_tensor(tensor: torch.Tensor, *_: Any) -> int:
        return tensor.numel() * tensor.element_size()

    def of_operations(operations: list[Any], *_: Any) -> int:
        return sum(of_tensor(o.tensor) for o in operations if o.op is dist.isend)

    def of_object(_: Any, value: Any, *__: Any) -> int:
        return len(pickle.dumps(value))

    sizes: dict[str, Callable[..., int]] = {
        "all_reduce": of_tensor,
        "reduce": of_tensor,
        "broadcast": of_tensor,
        "batch_isend_irecv": of_operations,
        "all_gather_object": of_object,
    }
    with ExitStack() as stack:
        for name, size in sizes.items():
            stack.enter_context(wrapped(name, size))
        yield


def communication(law: str) -> list[str]:
    """Return a line for each call of an energy, with the bytes per matrix of this process."""
    net = sharded(SIDES)
    energy = htr.bind(htr.Priors(LAWS[law]), net, refresh=htr.Drift(0.1, 4))
    energy.backward()
    lines = []
    for call in range(2, 10):
        if call == 9:
            energy.invalidate()
        bytes_of: Counter[str] = Counter()
        with counted(bytes_of):
            energy.backward()
        what = ", ".join(f"{n} {b / len(SIDES):.0f}" for n, b in sorted(bytes_of.items()) if b)
        lines.append(
            f"{law:8} call {call}{' (refresh)' if call == 9 else '':10} {what or 'nothing'}"
        )
    return lines


def work(law: str, processes: int) -> list[float]:
    """The operations of a refresh by process, as shares of those that one process would do."""
    energy = htr.bind(htr.Priors(LAWS[law]), sharded(SIDES))
    energy.backward()
    shares = [0.0] * processes
    owners = energy._sharing._owners  # type: ignore[union-attr]
    alone = 0.0
    for m in energy._matrices:
        assert isinstance(m, ShardedMatrixEnergy)
        total = plan(m.prior.stated.needs, m.prior.shape).flops
        alone += total
        shares[owners[m.name]] += m.flops
        if m.shards.kind == SUMMED:
            for process, piece in enumerate(m.shards.pieces):
                rest = max(total - m.flops, 0.0)
                shares[process] += rest * piece.numel / (m.prior.shape[0] * m.prior.shape[1])
    return [share / alone for share in shares]


def memory(refresh: htr.Exact | htr.Drift, shape: tuple[int, int]) -> float:
    """Return the peak of resident memory in an evaluation beyond weights and gradients, in bytes.

    The C library returns freed blocks of 128 KiB or more at once, so that memory which it would
    keep for later use is not counted.
    """
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 17)
    net = sharded([shape])
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    energy = htr.bind(htr.Priors(LAWS["all"]), net, refresh=refresh)
    small = sharded([(64, 8)])
    htr.bind(htr.Priors(LAWS["all"]), small).backward()  # what libraries allocate once
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    energy.backward()
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def process(rank: int, processes: int, store: str, options: argparse.Namespace) -> None:
    """What each process measures; the first one prints."""
    torch.set_num_threads(1)
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=processes,
        timeout=timedelta(minutes=5),
    )

    def show(line: str) -> None:
        if rank == 0:
            print(line, flush=True)

    for law in LAWS:
        for line in communication(law):
            show(line)
        shares = ", ".join(f"{share:.3f}" for share in work(law, processes))
        show(f"{law:8} operations of each process, where one process has 1: {shares}")
    if options.memory:
        m, n = options.memory
        shard, gram = 4 * -(-m // processes) * n, 8 * n * n
        # The first evaluation of this size shows what libraries allocate once.
        for refresh in (htr.Exact(), htr.Exact(), htr.Drift()):
            peaks: list[Any] = [None] * processes
            dist.all_gather_object(peaks, memory(refresh, (m, n)))
            by_process = ", ".join(f"{peak / 1e6:.0f}" for peak in peaks)
            show(
                f"peak of {m} x {n} with {refresh!r}: {by_process} MB by process, where a shard "
                f"has {shard / 1e6:.0f} MB and three Gram matrices have {3 * gram / 1e6:.0f} MB"
            )
    dist.destroy_process_group()


def main() -> None:
    """Start the processes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sharded", description=__doc__)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--memory", type=int, nargs=2, metavar=("ROWS", "COLUMNS"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (options.processes, str(Path(folder) / "store"), options)
        start_processes(process, arguments, options.processes, start_method="fork")


if __name__ == "__main__":
    main()

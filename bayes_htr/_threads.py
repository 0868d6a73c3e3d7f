"""Threads: one computation at a time in a process, and how many threads PyTorch has for it.

PyTorch's global random generators and Pyro's stack of handlers belong to a whole process. Two
threads that train or draw at the same time would disturb each other, so that they take turns.
"""

from __future__ import annotations

import math
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

_PATIENCE = 2.0
"""Seconds after which a thread that waits for its turn warns."""

_FEW_PARAMETERS = 2_000_000
_SMALL_STEP = 2**28
"""Multiply-adds of a forward pass of one batch below which several threads gain little."""


_lock = threading.RLock()
_holders: list[int] = []
"""The thread that holds the lock, once for each block that it is in."""


@contextmanager
def exclusive() -> Iterator[None]:
    """Wait until no other thread of this process is in such a block, and then keep others out.

    Blocks may be nested. A thread that waits for more than two seconds issues a warning.
    """
    lock, holders = _lock, _holders  # a forked process may replace both within the block
    if not lock.acquire(timeout=_PATIENCE):
        warnings.warn(
            "another thread of this process is training or drawing, and this one waits until "
            "it has ended, since both need PyTorch's global random generator; to train at the "
            "same time, start several processes",
            stacklevel=4,
        )
        lock.acquire()
    holders.append(threading.get_ident())
    try:
        yield
    finally:
        holders.pop()
        lock.release()


def _renew_in_child() -> None:
    """Renew the lock in a forked process if its holder is a thread that does not exist there."""
    global _lock, _holders
    if threading.get_ident() not in _holders:
        _lock, _holders = threading.RLock(), []


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_in_child)


@dataclass
class Work:
    """The work of forward passes: `multiply_adds`, those of linear layers and convolutions."""

    multiply_adds: int = 0


@contextmanager
def counted_work(net: nn.Module) -> Iterator[Work]:
    """Count the work of the forward passes of a network in this block.

    The work of a compiled network is not counted, since hooks would make it compile again.
    """
    work = Work()

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and inputs and isinstance(inputs[0], Tensor):
            work.multiply_adds += _multiply_adds(module, inputs[0], output)

    layers = [m for m in net.modules() if isinstance(m, nn.Linear | _ConvNd)]
    if any(hasattr(m, "_orig_mod") or isinstance(m, torch.jit.ScriptModule) for m in net.modules()):
        layers = []
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield work
    finally:
        for handle in handles:
            handle.remove()


def _multiply_adds(module: nn.Module, x: Tensor, output: Tensor) -> int:
    if isinstance(module, nn.Linear):
        return output.numel() * module.in_features
    assert isinstance(module, _ConvNd)
    kernel = math.prod(module.kernel_size)
    if isinstance(module, _ConvTransposeNd):
        return x.numel() * module.out_channels // module.groups * kernel
    return output.numel() * module.in_channels // module.groups * kernel


def suitable_threads(net: nn.Module, multiply_adds: float) -> int:
    """Return the number of PyTorch threads with which a network is best trained on the CPU.

    A small network gets one thread. Several threads do not make it faster, because they wait for
    each other at every layer. On a busy machine they also wait for a processor, and training can
    take up to a hundred times as long. Other networks get as many threads as PyTorch would use.

    Args:
        net: The network, which is small if it has fewer than two million parameters and little work
            in a step.
        multiply_adds: The multiply-adds of the forward pass of a batch (`counted_work`).
    """
    few = sum(p.numel() for p in net.parameters()) < _FEW_PARAMETERS
    return 1 if few and multiply_adds < _SMALL_STEP else torch.get_num_threads()


@contextmanager
def restored_threads() -> Iterator[None]:
    """Restore the number of PyTorch's threads at the end of the block."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def with_threads(label: str, device: torch.device) -> str:
    """Return a label that also tells the number of PyTorch's threads, if the CPU does the work."""
    count = torch.get_num_threads()
    if device.type != "cpu":
        return label
    return f"{label}, {count} thread{'s' * (count != 1)}"

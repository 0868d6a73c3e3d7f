"""Helpers for PyTorch: devices by name, the global random state, and the modes of modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from bayes_htr._threads import exclusive


def usable_device(name: str | torch.device) -> torch.device:
    """Return the device of this name, after checking that a tensor can be placed on it.

    Raises:
        ValueError: There is no such device on this machine.
    """
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:  # the name is unknown, or the device missing
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device={str(name)!r} cannot be used here ({reason}); take 'cpu' or 'auto'"
        ) from error


_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def input_dtype(net: nn.Module) -> torch.dtype:
    """Return the dtype that floating-point inputs of a network have.

    It is that of the first weight matrix, or else of the first parameter, that floating-point
    inputs can be multiplied by. Integers, quantised weights and small parameters in front of the
    first layer say nothing about inputs. A network without any has complex inputs if its first
    parameter is complex, and float32 otherwise.
    """
    parameters = list(net.parameters())
    floats = [p for p in parameters if p.dtype in _FLOATS]
    if not floats:
        return parameters[0].dtype if parameters and parameters[0].is_complex() else torch.float32
    return next((p.dtype for p in floats if p.ndim > 1), floats[0].dtype)


@contextmanager
def isolated_randomness() -> Iterator[None]:
    """Restore the state of PyTorch's global random generators at the end of the block.

    One thread at a time is in such a block, since there is one state for all.
    """
    with exclusive(), torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        yield


Modes = dict[nn.Module, bool]


def modes_of(net: nn.Module) -> Modes:
    """Return whether each module of a network is in training mode."""
    return {module: module.training for module in net.modules()}


def set_modes(modes: Modes) -> None:
    """Restore the modes that `modes_of` returned."""
    for module, mode in modes.items():
        module.training = mode


@contextmanager
def evaluation_mode(net: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and restore the mode of each module afterwards."""
    modes = modes_of(net)
    net.eval()
    try:
        yield
    finally:
        set_modes(modes)

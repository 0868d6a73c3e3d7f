"""Training and evaluation mode of a network, module by module, and how they are put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

Modes = dict[nn.Module, bool]


def modes_of(net: nn.Module) -> Modes:
    """Whether each module of a network is in training mode."""
    return {module: module.training for module in net.modules()}


def set_modes(modes: Modes) -> None:
    """Put modules into the modes that `modes_of` told."""
    for module, mode in modes.items():
        module.training = mode


@contextmanager
def evaluation_mode(net: nn.Module) -> Iterator[None]:
    """Within it the network is in evaluation mode; afterwards each module is as it was."""
    modes = modes_of(net)
    net.eval()
    try:
        yield
    finally:
        set_modes(modes)

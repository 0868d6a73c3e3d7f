"""Devices by name."""

from __future__ import annotations

import torch


def usable_device(name: str | torch.device) -> torch.device:
    """A device, after checking that a tensor can be put on it.

    Raises:
        ValueError: There is no such device on this machine.
    """
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:  # unknown, or not there
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device={str(name)!r} cannot be used here ({reason}); take 'cpu' or 'auto'"
        ) from error

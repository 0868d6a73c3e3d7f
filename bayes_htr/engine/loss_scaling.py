"""Losses that a `GradScaler` multiplies: the gradient of an energy has to be scaled alike.

`scaler.scale(loss).backward()` leaves gradients that are larger than those of the loss by a factor,
and `scaler.step` divides by it. A gradient that is added in between without the factor is divided
as well, and vanishes.
"""

from __future__ import annotations

import gc
import warnings
from typing import Literal

from torch.amp import GradScaler
from torch.amp.grad_scaler import OptState

Scaler = GradScaler | None | Literal["unknown"]
"""The scaler of the loss, `None` for a loss that is not scaled, or `"unknown"`."""


def factor_of(scaler: GradScaler) -> float:
    """The factor by which a scaler makes the gradients in `.grad` larger than those of the loss.

    Raises:
        TypeError: Something that is no scaler.
        RuntimeError: The scaler has divided gradients by its factor already.
    """
    if not isinstance(scaler, GradScaler):
        raise TypeError(f"scaler={scaler!r} must be a torch.amp.GradScaler, or None for no scaling")
    if not scaler.is_enabled():
        return 1.0
    if _has_unscaled(scaler):
        raise RuntimeError(
            "scaler.unscale_(optimizer) has divided the gradients by the scale already; call "
            "energy.backward(..., scaler=scaler) before it, or pass scaler=None after it"
        )
    return float(scaler.get_scale())


def warn_of_scalers(stacklevel: int) -> None:
    """Warn if a scaler of this process is in use whose gradients have not been divided yet."""
    for scaler in gc.get_objects():
        # Not `isinstance`, which asks objects for their class, and proxies may answer by an error.
        if not issubclass(type(scaler), GradScaler) or not scaler.is_enabled():
            continue
        if scaler._scale is not None and not _has_unscaled(scaler):
            warnings.warn(
                f"a GradScaler is in use, with the scale {scaler.get_scale():g}, and "
                "energy.backward() does not know of it: if it scales the loss of this network, "
                "the prior has almost no effect. Pass scaler=scaler, or scaler=None if the "
                "gradients are not scaled",
                stacklevel=stacklevel,
            )
            return


def _has_unscaled(scaler: GradScaler) -> bool:
    """Whether gradients of an optimiser have been divided by the scale since the last update."""
    stages = (state["stage"] for state in scaler._per_optimizer_states.values())
    return any(stage is not OptState.READY for stage in stages)

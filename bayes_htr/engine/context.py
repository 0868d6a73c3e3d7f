"""What surrounds a call of an energy: autocast, transforms, and the scaler of the loss.

An energy computes in full precision, outside of the caller's autocast, and with numbers that the
host reads. It cannot run within a transform of `torch.func`, whose tensors have no numbers yet.

After `scaler.scale(loss).backward()` the gradients are larger than those of the loss by a factor,
and `scaler.step` divides by this factor. The gradient of an energy that is added in between has to
be multiplied by it as well, or it would vanish.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, Literal, ParamSpec, Protocol, TypeVar

import torch
from torch.amp import GradScaler
from torch.amp.grad_scaler import OptState
from torch.autograd import forward_ad

Scaler = GradScaler | None | Literal["unknown"]
"""The scaler of the loss, `None` for a loss that is not scaled, or `"unknown"`."""


class OnDevice(Protocol):
    """An object that is on a device."""

    @property
    def device(self) -> torch.device:
        """The device."""


E = TypeVar("E", bound=OnDevice)
P = ParamSpec("P")
T = TypeVar("T")


def entry_point(method: Callable[Concatenate[E, P], T]) -> Callable[Concatenate[E, P], T]:
    """Run a method outside of the caller's autocast, whose products are too inaccurate.

    Raises:
        RuntimeError: The call is within a transform of `torch.func`, such as `grad` or `vmap`,
            within forward-mode differentiation, or within a trace of TorchScript.
    """

    @wraps(method)
    def run(energy: E, /, *args: P.args, **kwargs: P.kwargs) -> T:
        transformed = torch._C._functorch.peek_interpreter_stack() is not None
        if transformed or forward_ad._current_level >= 0:
            raise RuntimeError(
                "the energy of a network cannot be computed within torch.func.grad, vmap, jvp or "
                "another transform of torch.func, nor by forward-mode differentiation; compute "
                "energy.at(parameters) outside of the transform and take its gradient by "
                "torch.autograd.grad, for several networks in a loop"
            )
        if torch._C._is_tracing():
            raise RuntimeError(
                "the energy of a network cannot be traced by TorchScript (torch.jit.trace, Pyro's "
                "JitTrace_ELBO and jit_compile=True): the trace would keep the present value as a "
                "constant. Call it without tracing, as in Trace_ELBO, or take "
                "pyro_model('weight'), whose density can be traced"
            )
        if not torch._C._is_any_autocast_enabled():
            return method(energy, *args, **kwargs)
        kind = energy.device.type
        if kind == "meta" or not torch.is_autocast_enabled(kind):
            return method(energy, *args, **kwargs)
        with torch.autocast(kind, enabled=False):
            return method(energy, *args, **kwargs)

    return run


def factor_of(scaler: GradScaler) -> float:
    """Return the factor by which a scaler multiplies the gradients of the loss in `.grad`.

    Raises:
        TypeError: `scaler` is no scaler.
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
    """Warn if this process uses a scaler that has not yet divided the gradients by its scale."""
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
    """Return whether an optimiser's gradients were divided by the scale since the last update."""
    stages = (state["stage"] for state in scaler._per_optimizer_states.values())
    return any(stage is not OptState.READY for stage in stages)

"""What every call of an energy checks and sets before anything is computed.

An energy computes in full precision, outside of the caller's autocast, and with numbers that the
host reads. It cannot run within a transform of `torch.func`, whose tensors have no numbers yet.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import torch
from torch.autograd import forward_ad


class OnDevice(Protocol):
    """What is on a device."""

    @property
    def device(self) -> torch.device:
        """The device."""


E = TypeVar("E", bound=OnDevice)
P = ParamSpec("P")
T = TypeVar("T")


def entry_point(method: Callable[Concatenate[E, P], T]) -> Callable[Concatenate[E, P], T]:
    """Run a method outside of the caller's autocast, whose products have too few digits.

    Raises:
        RuntimeError: Within a transform of `torch.func`, such as `grad` or `vmap`, within
            forward-mode differentiation, or within a trace of TorchScript.
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

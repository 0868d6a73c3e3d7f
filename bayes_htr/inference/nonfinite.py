"""The error of a run whose numbers are no longer finite, and the layer where this began."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayes_htr.errors import DivergenceError
from bayes_htr.models.inputs import Inputs, call, num_examples


def divergence(
    reason: str, step: int, epoch: int, checkpoint: Path | None, net: nn.Module | None, x: Inputs
) -> DivergenceError:
    """Make the error to raise.

    Args:
        reason: A description of what is not finite.
        step: The number of the update, from 0.
        epoch: The number of the epoch, from 0.
        checkpoint: The last good checkpoint, if there is one.
        net: The network; `None` if no process has all of it.
        x: The inputs of the last batch, on which the layer is found.
    """
    last = "no run folder was given"
    if checkpoint is not None:
        last = f"the last good checkpoint is {checkpoint}"
    where = "" if net is None else f"{_first_nonfinite(net, x)}; "
    return DivergenceError(
        f"training diverged at step {step} (epoch {epoch}): {reason}; {where}{last}. "
        "Lower the learning rate, clip gradients, or lower the prior's strength"
    )


def _first_nonfinite(net: nn.Module, x: Inputs) -> str:
    """Say which parameter, or else which layer's output, is the first that is not finite."""
    for name, parameter in net.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return f"the first parameter that is not finite is {name}"
    bad: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                bad.append(name)

        return hook

    leaves = [(n, m) for n, m in net.named_modules() if not any(m.children())]
    handles = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        with torch.no_grad():
            if num_examples(x):  # a process's part of a batch may be empty
                call(net, x)
    finally:
        for handle in handles:
            handle.remove()
    if bad:
        return f"the first layer whose output is not finite is {bad[0]}"
    name, weight = max(net.named_parameters(), key=lambda item: float(item[1].detach().abs().max()))
    return f"all weights are finite, the largest ({weight.detach().abs().max():.3g}) in {name}"

"""Saying where training left the finite numbers."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from bayes_htr.errors import DivergenceError


def divergence(
    reason: str, *, step: int, epoch: int, net: nn.Module, x: Tensor, checkpoint: Path | None
) -> DivergenceError:
    """The error to raise: it names step, epoch, layer, and the last good checkpoint."""
    layer = first_bad_layer(net, x)
    last = f"the last good checkpoint is {checkpoint}" if checkpoint else "no run folder was given"
    return DivergenceError(
        f"training diverged at step {step} (epoch {epoch}): {reason}; {layer}; {last}. "
        "Lower the learning rate, clip gradients, or lower the prior's strength"
    )


def first_bad_layer(net: nn.Module, x: Tensor) -> str:
    """In words: the first parameter, or the first layer's output, that is not finite."""
    for name, parameter in net.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return f"the first parameter that is not finite is {name}"
    bad: list[str] = []

    def watch(name: str) -> nn.modules.module._ForwardHook:  # type: ignore[name-defined]
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                bad.append(name)

        return hook

    leaves = [(n, m) for n, m in net.named_modules() if not any(m.children())]
    handles = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        with torch.no_grad():
            if len(x):  # a process's share of a batch may be empty
                net(x)
    finally:
        for handle in handles:
            handle.remove()
    if bad:
        return f"the first layer whose output is not finite is {bad[0]}"
    largest = max(net.named_parameters(), key=lambda item: float(item[1].detach().abs().max()))
    return (
        f"all weights are finite, the largest ({largest[1].detach().abs().max():.3g}) "
        f"in {largest[0]}"
    )

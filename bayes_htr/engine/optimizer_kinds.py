"""Kinds of optimisers: which of them can have a prior, and how schedule-free ones take a step."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from bayes_htr.engine.energy import SpectralEnergy
from bayes_htr.errors import PriorError


def needs_closure(optimizer: Optimizer) -> bool:
    """Return whether `optimizer.step` requires a closure, as that of LBFGS does."""
    parameters = inspect.signature(type(optimizer).step).parameters
    return "closure" in parameters and parameters["closure"].default is inspect.Parameter.empty


def check_type(optimizer: Optimizer) -> None:
    """Raise if an optimiser cannot be wrapped."""
    name = type(optimizer).__name__
    if not isinstance(optimizer, Optimizer):
        raise PriorError(
            f"{name} is no torch.optim.Optimizer; pass one, such as "
            "torch.optim.AdamW(net.parameters())"
        )
    if type(optimizer).__module__.partition(".")[0] in ("accelerate", "lightning"):
        raise PriorError(
            f"{name} is what a trainer has made of an optimiser, and may be called for batches at "
            "which no step is taken; call with_prior before the trainer gets the optimiser, as in "
            "accelerator.prepare(net, htr.with_prior(optimizer, ...))"
        )


def check_form(optimizer: Optimizer, energy: SpectralEnergy, *, decoupled: bool) -> None:
    """Raise if an optimiser cannot have a prior in this form.

    Raises:
        PriorError: The optimiser maximises. In the decoupled form: it needs a closure, has no
            learning rates, or keeps weights in a way that is not known. In the coupled form: it
            compares losses within a step while gradients of the prior are cached.
    """
    name = type(optimizer).__name__
    if needs_closure(optimizer):
        if decoupled:
            raise PriorError(
                f"{name} takes several steps at a time, between which a decoupled prior could not "
                "act; pass decoupled=False"
            )
        if energy.caches:
            raise PriorError(
                f"{name} compares losses within a step, and under {energy.refresh!r} that of the "
                "prior is cached; pass refresh=htr.Exact()"
            )
    for group in optimizer.param_groups:
        if group.get("maximize"):
            raise PriorError(
                f"{name}(maximize=True) climbs, and a prior's energy is to be made small; minimise "
                "the negative objective instead"
            )
        if decoupled and not isinstance(group.get("lr"), float | int | Tensor):
            raise PriorError(
                f"{name} has the learning rate lr={group.get('lr')!r}, and the decoupled step of a "
                "prior needs a number; pass decoupled=False"
            )
        # Its reference implementations keep the averages of weights themselves.
        if decoupled and "train_mode" in group and name.endswith(("Reference", "Paper")):
            raise PriorError(
                f"{name} keeps weights in a way that a decoupled prior does not know; take "
                f"{name.removesuffix('Reference').removesuffix('Paper')} or pass decoupled=False"
            )


def schedule_free_step(group: Mapping[str, Any]) -> tuple[float, float]:
    """Return how far a schedule-free optimiser has just moved its iterate and its weights.

    With the iterate `z`, its average `x` and the weights `y = (1 - beta) z + beta x`, in which
    gradients are taken, the step is `z <- z - lr g`, `x <- (1 - c) x + c z`. It moves `y` by
    `-lr (1 - beta (1 - c)) g`.

    Args:
        group: A parameter group after the step.

    Returns:
        `lr`, and the share `1 - beta (1 - c)` of the step that the weights take.
    """
    beta = group["betas"][0] if "betas" in group else group["momentum"]
    weight = group["k"] ** group["r"] * group["lr_max"] ** group["weight_lr_power"]
    c = weight / group["weight_sum"] if group["weight_sum"] else 0.0
    return float(group["scheduled_lr"]), float(1 - beta * (1 - c))

"""The training loop that is measured: plain, and with a prior, which differs by one line.

The loop is what anyone would write by hand: a batch by index from tensors, `zero_grad`, forward,
cross-entropy, backward, step. The one line is `Run.backward`, which is `plain`, a `WithPrior` or a
naive energy (`benchmarks.cost.naive`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayes_htr.engine import SpectralEnergy

CPU = torch.device("cpu")

Backward = Callable[[Tensor], None]
"""Takes a batch's loss and leaves gradients in `.grad`."""

Entry = Literal["backward", "loss"]
"""How a prior enters a step: by `energy.backward`, or as a summand of the loss."""


@dataclass(frozen=True, eq=False)
class Workload:
    """A network, its data, and how it is trained.

    Attributes:
        build: Builds the network from a seed.
        x: Inputs.
        y: Labels.
        batch_size: Examples per step.
        lr: Learning rate of SGD.
        momentum: Of SGD.
        seed: Of the weights and of the order of the data.
        device: Where it is trained.
        dtype: Of the forward pass; other than float32 by autocast.
    """

    build: Callable[[int], nn.Module]
    x: Tensor
    y: Tensor
    batch_size: int = 128
    lr: float = 0.05
    momentum: float = 0.9
    seed: int = 0
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= len(self.x):
            raise ValueError(
                f"batch_size={self.batch_size} must be from 1 to the number of examples, "
                f"{len(self.x)}"
            )

    @property
    def num_data(self) -> int:
        """How many examples there are."""
        return len(self.x)

    def seeded(self, seed: int) -> Workload:
        """The same with another seed."""
        return replace(self, seed=seed)

    def network(self) -> nn.Module:
        """A fresh network; the same one at every call."""
        return self.build(self.seed).to(self.device).train()

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of one size without end, in an order that the seed decides."""
        generator = torch.Generator().manual_seed(self.seed)
        x, y = self.x.to(self.device), self.y.to(self.device)
        while True:
            order = torch.randperm(len(x), generator=generator).to(self.device)
            for start in range(0, len(x) - self.batch_size + 1, self.batch_size):
                chosen = order[start : start + self.batch_size]
                yield x[chosen], y[chosen]

    def autocast(self) -> AbstractContextManager[object]:
        """What the forward pass runs in."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


class Run:
    """A run of the loop on a fresh network.

    Args:
        workload: What is trained.
        backward: Makes the line that runs differ by, given the network.
    """

    def __init__(self, workload: Workload, backward: Callable[[nn.Module], Backward]) -> None:
        self.net = workload.network()
        self.backward = backward(self.net)
        self._autocast = workload.autocast
        self._batches = workload.batches()
        self._optimizer = torch.optim.SGD(
            self.net.parameters(), lr=workload.lr, momentum=workload.momentum
        )

    def steps(self, count: int) -> None:
        """Take `count` steps."""
        for _ in range(count):
            x, y = next(self._batches)
            self._optimizer.zero_grad()
            with self._autocast():
                loss = F.cross_entropy(self.net(x), y)
            self.backward(loss)
            self._optimizer.step()


def plain(net: nn.Module) -> Backward:
    """The line of plain training."""
    return Tensor.backward


@dataclass(eq=False)
class WithPrior:
    """The line of training under a prior.

    Attributes:
        energy: The energy of the network under its prior.
        scale: What it is multiplied by in the loss: `1 / num_data`.
        entry: How it enters.
    """

    energy: SpectralEnergy
    scale: float
    entry: Entry = "backward"

    def __call__(self, loss: Tensor) -> None:
        """Gradients of the loss and of the prior."""
        if self.entry == "loss":
            (loss + self.energy() * self.scale).backward()
        else:
            loss.backward()
            self.energy.backward(self.scale)

    def alone(self) -> None:
        """Add the gradients of the prior alone."""
        if self.entry == "loss":
            (self.energy() * self.scale).backward()
        else:
            self.energy.backward(self.scale)

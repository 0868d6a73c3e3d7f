"""SWAG: a normal posterior from the path of SGD, with a diagonal and a low-rank covariance.

Source: Maddox, Garipov, Izmailov, Vetrov & Wilson (2019), A simple baseline for Bayesian
uncertainty in deep learning, arXiv:1902.02476.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from benchmarks.study.method import Task
from benchmarks.study.peers.draws import Draws
from benchmarks.study.peers.training import batches, descend, seeded, steps_of

RANK = 20
"""The largest number of deviations in the low-rank part."""
DECAY = 5e-4
"""The weight decay of SGD."""
SNAPSHOTS = 40
"""The number of snapshots. The paper takes one in each of many epochs; here there are few."""


class Moments:
    """The mean of snapshots `(P,)` of the weights, their variances, and their last deviations.

    Attributes:
        count: The number of snapshots.
        mean: The mean of the snapshots.
        deviations: Each of the last `RANK` snapshots minus the mean of those until then.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self._squares = torch.zeros(())  # the sum of squared deviations, after Welford
        self.deviations: deque[Tensor] = deque(maxlen=RANK)

    def add(self, weights: Tensor) -> None:
        """Add a snapshot."""
        self.count += 1
        before = weights - self.mean
        self.mean = self.mean + before / self.count
        self._squares = self._squares + before * (weights - self.mean)
        self.deviations.append(weights - self.mean)

    @property
    def variance(self) -> Tensor:
        """The variance of each weight over the snapshots, `(P,)`."""
        return self._squares / self.count

    def draw(self) -> Tensor:
        """Draw from the posterior: half of the covariance is diagonal, half of low rank."""
        size = len(self.deviations)
        deviations = torch.stack(tuple(self.deviations))
        diagonal = self.variance.sqrt() * torch.randn_like(self.mean)
        low_rank = torch.randn_like(deviations[:, 0]) @ deviations
        return self.mean + diagonal / math.sqrt(2) + low_rank / math.sqrt(2 * max(1, size - 1))


def swag(task: Task) -> Draws:
    """Train, and collect snapshots at a constant rate in the last epochs.

    The numbers are `share`, the constant learning rate over that of plain training, and `passes`,
    the epochs over those of plain training. With one pass the last quarter collects, with more all
    that follow the first. The rate falls to the constant one as the schedule of the cell says.
    """
    x, base = task.data[0], task.base
    net = task.net.to(x.device).train()
    lr, share = base.lr, task.numbers["share"]
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=DECAY)
    epochs = int(task.numbers["passes"] * base.epochs)
    collecting = max(1, epochs - base.epochs or epochs // 4)
    first, last = steps_of(task, epochs - collecting), steps_of(task, collecting)
    moments = Moments()
    with seeded(task.seed):
        for step, batch in enumerate(batches(task, epochs), 1):
            if step > first:
                factor = share
            elif base.schedule == "cosine":
                factor = share + (1 - share) * (1 + math.cos(math.pi * (step - 1) / first)) / 2
            else:
                factor = 1.0
            optimizer.param_groups[0]["lr"] = factor * lr
            descend(net, optimizer, batch)
            if step > first and _due(step - first, last):
                moments.add(parameters_to_vector(net.parameters()).detach())
    net.eval()

    def draw(count: int) -> Iterator[nn.Module]:
        for _ in range(count):
            vector_to_parameters(moments.draw(), net.parameters())
            yield net

    return Draws(draw, x.device)


def _due(step: int, steps: int) -> bool:
    """Return whether a snapshot is taken after a step: `SNAPSHOTS` times, the last included."""
    return SNAPSHOTS * step // steps > SNAPSHOTS * (step - 1) // steps

"""What the fits of peers share: plain training, random batches, and steps of SGD."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bayes_htr as htr
from bayes_htr._torch import isolated_randomness
from benchmarks.study.cells import Pair
from benchmarks.study.method import Setting, Task, plain


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch, and restore the state of its generators at the end of the block."""
    with isolated_randomness():
        torch.manual_seed(seed)
        yield


def trained_with_decay(task: Task) -> nn.Module:
    """Return the network after training with weight decay, else as the reference method trains.

    The number is `decay`, the coefficient of half of the squared norm of each matrix.

    Raises:
        DivergenceError: The weights are not finite.
    """
    x, y = task.data
    setting = Setting(task.net, len(x), task.base, {})
    strength = task.numbers["decay"] * len(x)
    decay = (
        htr.Priors(htr.penalties.weight_decay()).scaled(strength) if strength else htr.Priors({})
    )
    return htr.fit(
        htr.BayesianClassifier(task.net, decay),
        (x, y),
        method=plain(task.numbers, setting),
        epochs=task.base.epochs,
        batch_size=task.batch_size,
        seed=task.seed,
        device=x.device,
        progress=False,
    ).network()


def steps_of(task: Task, epochs: int) -> int:
    """Return the number of steps of so many epochs."""
    return epochs * -(-len(task.data[0]) // task.batch_size)


def batches(task: Task, epochs: int) -> Iterator[Pair]:
    """Random batches of so many passes over the training images."""
    x, y = task.data
    for _ in range(epochs):
        for rows in torch.randperm(len(x), device=x.device).split(task.batch_size):
            yield x[rows], y[rows]


def descend(net: nn.Module, optimizer: torch.optim.Optimizer, batch: Pair) -> Tensor:
    """Take a step on the mean cross-entropy of a batch, and return this loss."""
    optimizer.zero_grad()
    loss = F.cross_entropy(net(batch[0]), batch[1])
    loss.backward()
    optimizer.step()
    return loss.detach()

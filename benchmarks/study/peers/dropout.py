"""Dropout in prediction too, whose masks are draws of the network.

Source: Gal & Ghahramani (2016), Dropout as a Bayesian approximation, arXiv:1506.02142.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from benchmarks.study.method import Task
from benchmarks.study.peers.draws import Draws
from benchmarks.study.peers.training import trained_with_decay


def mc_dropout(task: Task) -> Draws:
    """Train a network with dropout, whose layers stay in training mode.

    The numbers are `dropout` and `decay`, the weight decay.
    """
    net = trained_with_decay(task).eval()
    for module in net.modules():
        module.train(isinstance(module, nn.Dropout))

    def draw(count: int) -> Iterator[nn.Module]:
        for _ in range(count):
            yield net

    return Draws(draw, task.data[0].device)

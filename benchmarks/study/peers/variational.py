"""IVON, which trains a normal posterior with independent weights; needs ivon-opt."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from benchmarks.common.ivon_training import trained_by_ivon
from benchmarks.study.method import Task
from benchmarks.study.peers.draws import Draws
from benchmarks.study.peers.training import seeded

BETA2 = 0.999
"""The decay of the Hessian that the authors take for short training. Their default, 0.99999, leaves
the initial Hessian nearly as it is over the thousand steps of a cell."""


def ivon(task: Task) -> Draws:
    """Train by IVON with the effective sample size that is recommended, the number of images.

    Raises:
        ImportError: ivon-opt is not installed.
    """
    x, y = task.data
    net = task.net.to(x.device)

    def loss(rows: Tensor) -> Tensor:
        return F.cross_entropy(net(x[rows]), y[rows])

    with seeded(task.seed):
        draws = trained_by_ivon(
            net,
            loss,
            len(x),
            epochs=task.base.epochs,
            batch_size=task.batch_size,
            lr=task.numbers["lr"],
            ess=float(len(x)),
            hess_init=task.numbers["hess_init"],
            beta2=BETA2,
        )
    return Draws(draws, x.device)

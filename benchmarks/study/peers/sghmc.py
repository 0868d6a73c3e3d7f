"""Stochastic gradient Hamiltonian Monte Carlo with cyclical steps; needs posteriors.

A step is that of Chen et al. In every cycle the size of the steps falls from its largest value to
zero. The first part of a cycle has no noise, and looks for a mode; the rest draws at the given
temperature.

Sources: Chen, Fox & Guestrin (2014), Stochastic gradient Hamiltonian Monte Carlo, arXiv:1402.4102.
Zhang, Li, Zhang, Chen & Wilson (2020), Cyclical stochastic gradient MCMC for Bayesian deep
learning, arXiv:1902.03932.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from benchmarks.common.packages import POSTERIORS
from benchmarks.study.cells import Pair
from benchmarks.study.method import Task
from benchmarks.study.peers.draws import Draws, Network
from benchmarks.study.peers.training import batches, seeded, steps_of

CYCLES = 4
DRAWS = 8
"""The number of draws of each cycle."""
SAMPLING = 0.25
"""The last part of each cycle, which draws."""
FRICTION = 0.1
"""The share of the momentum that each step loses."""


def sghmc(task: Task) -> Draws:
    """Draw weights under normal priors.

    The numbers are `lr`, the largest learning rate; `decay`, the precision of the priors over the
    number of images; `temperature`; and `passes`, the number of epochs over those of plain
    training.

    Raises:
        ImportError: posteriors is not installed.
    """
    sampler = POSTERIORS.load().sgmcmc.sghmc
    x, numbers = task.data[0], task.numbers
    net = task.net.to(x.device).train()

    def log_posterior(weights: dict[str, Tensor], batch: Pair) -> tuple[Tensor, Tensor]:
        """The log posterior over the number of images."""
        logits = functional_call(net, weights, (batch[0],))
        square = sum(w.square().sum() for w in weights.values())
        value = -F.cross_entropy(logits, batch[1]) - numbers["precision"] / (2 * len(x)) * square
        return value, torch.zeros(())

    epochs = int(numbers["passes"] * task.base.epochs)
    length = -(-steps_of(task, epochs) // CYCLES)
    sampling = max(1, int(SAMPLING * length))
    state = sampler.init({n: p.detach().clone() for n, p in net.named_parameters()}, momenta=0.0)
    draws: list[dict[str, Tensor]] = []
    with seeded(task.seed):
        for step, batch in enumerate(batches(task, epochs)):
            place = step % length
            # In units of SGD with momentum a step has the square of the step size of the dynamics.
            size = math.sqrt(numbers["lr"] * (1 + math.cos(math.pi * place / length)) / 2)
            late = place - (length - sampling) + 1  # counts the steps that draw
            state, _ = sampler.update(
                state,
                batch,
                log_posterior,
                lr=size,
                alpha=FRICTION / size,
                temperature=numbers["temperature"] / len(x) if late > 0 else 0.0,
                inplace=True,
            )
            if late > 0 and DRAWS * late // sampling > DRAWS * (late - 1) // sampling:
                draws.append({name: w.clone() for name, w in state.params.items()})
    net.eval()

    def draw(count: int) -> Iterator[Network]:
        kept = min(count, len(draws))
        for i in range(kept):
            weights = draws[(2 * i + 1) * len(draws) // (2 * kept)]
            yield partial(_under, net, weights)

    return Draws(draw, x.device)


def _under(net: Any, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """The logits of a network with other weights."""
    return functional_call(net, weights, (x,))

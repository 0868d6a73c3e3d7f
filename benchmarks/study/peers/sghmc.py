"""Stochastic gradient Hamiltonian Monte Carlo with cyclical steps.

The steps are those of Chen et al., who take gradients where momenta have moved the weights. The
package posteriors is not used: its version 0.1.3 takes them before the move, which is stable only
while the learning rate times the curvature is below the friction. At the rates of plain training
its weights were not finite. In every cycle the learning rate falls from its largest value to zero;
the first part looks for a mode without noise, and the rest draws at the given temperature.

Sources: Chen, Fox & Guestrin (2014), Stochastic gradient Hamiltonian Monte Carlo, arXiv:1402.4102.
Zhang, Li, Zhang, Chen & Wilson (2020), Cyclical stochastic gradient MCMC for Bayesian deep
learning, arXiv:1902.03932.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from benchmarks.study.method import Task
from benchmarks.study.peers.draws import Draws
from benchmarks.study.peers.training import batches, seeded, steps_of

CYCLES = 4
DRAWS = 8
"""The number of draws of each cycle."""
SAMPLING = 0.25
"""The last part of each cycle, which draws."""
PRECISION = 5.0
"""The precision of the prior of each weight."""
FRICTION = 0.1
"""The share of the momentum that each step loses, as in SGD with momentum 0.9."""


def sghmc(task: Task) -> Draws:
    """Draw weights under normal priors.

    The largest learning rate is that of plain training. The numbers are `temperature`, and
    `passes`, the epochs over those of plain training.
    """
    x, numbers = task.data[0], task.numbers
    net = task.net.to(x.device).train()
    parameters = list(net.parameters())
    momenta = [torch.zeros_like(p) for p in parameters]
    epochs = int(numbers["passes"] * task.base.epochs)
    length = -(-steps_of(task, epochs) // CYCLES)
    sampling = max(1, int(SAMPLING * length))
    draws: list[Tensor] = []
    with seeded(task.seed):
        for step, batch in enumerate(batches(task, epochs)):
            place = step % length
            late = place - (length - sampling) + 1  # counts the steps that draw
            net.zero_grad()
            F.cross_entropy(net(batch[0]), batch[1]).backward()
            move(
                parameters,
                momenta,
                lr=task.base.lr * (1 + math.cos(math.pi * place / length)) / 2,
                decay=PRECISION / len(x),
                temperature=numbers["temperature"] / len(x) if late > 0 else 0.0,
            )
            if late > 0 and DRAWS * late // sampling > DRAWS * (late - 1) // sampling:
                draws.append(parameters_to_vector(parameters).detach())
    net.eval()

    def draw(count: int) -> Iterator[nn.Module]:
        kept = min(count, len(draws))
        for i in range(kept):
            vector_to_parameters(draws[(2 * i + 1) * len(draws) // (2 * kept)], parameters)
            yield net

    return Draws(draw, x.device)


@torch.no_grad()
def move(
    parameters: list[nn.Parameter],
    momenta: list[Tensor],
    *,
    lr: float,
    decay: float,
    temperature: float,
) -> None:
    """Take a step with the gradients that parameters have.

    Args:
        parameters: The weights, which are changed.
        momenta: Those of the weights, which are changed first. At rest their variance is `lr` times
            the temperature.
        lr: The learning rate.
        decay: The precision of the prior in the unit of the loss.
        temperature: The temperature in the unit of the loss.
    """
    deviation = math.sqrt(lr * temperature * (1 - (1 - FRICTION) ** 2))
    for p, momentum in zip(parameters, momenta, strict=True):
        assert p.grad is not None
        momentum.mul_(1 - FRICTION).sub_(p.grad + decay * p, alpha=lr)
        if deviation > 0:
            momentum.add_(torch.randn_like(p), alpha=deviation)
        p.add_(momentum)

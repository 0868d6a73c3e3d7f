"""Training by IVON, the optimiser of the package ivon-opt, and draws from its posterior.

Source: Shen et al. (2024), Variational learning is effective for large deep networks,
arXiv:2402.17641.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from benchmarks.common.packages import IVON


def trained_by_ivon(
    net: nn.Module,
    loss: Callable[[Tensor], Tensor],
    count: int,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    ess: float,
    hess_init: float,
    beta2: float = 0.99999,
) -> Callable[[int], Iterator[nn.Module]]:
    """Train what requires gradients, with a cosine schedule and one draw for each step.

    Args:
        net: The network, which is trained in place.
        loss: The mean loss of the examples with the given numbers `(B,)`.
        count: The number of examples.
        epochs: Passes over them.
        batch_size: Examples per step.
        lr: The learning rate.
        ess: The effective sample size, which divides the variance of the posterior.
        hess_init: The initial Hessian, which decides the scale of the posterior if there are far
            fewer steps than `1 / (1 - beta2)`.
        beta2: The decay of the running mean of Hessians.

    Returns:
        A function that takes the number of draws and yields the network under each of them.

    Raises:
        ImportError: ivon-opt is not installed.
    """
    make = IVON.load().IVON
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer: Any = make(
        trained, lr=lr, ess=ess, hess_init=hess_init, beta2=beta2, weight_decay=1e-4
    )
    schedule = CosineAnnealingLR(optimizer, epochs * -(-count // batch_size))
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(count).split(batch_size):
            with optimizer.sampled_params(train=True):
                optimizer.zero_grad()
                loss(rows).backward()
            optimizer.step()
            schedule.step()
    net.eval()

    def draws(number: int) -> Iterator[nn.Module]:
        for _ in range(number):
            with optimizer.sampled_params():
                yield net

    return draws

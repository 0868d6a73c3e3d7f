"""Maximum a posteriori: the mode of the joint density in natural coordinates.

Update: `W <- W - lr * grad[ mean -log p(y | x, W) + energy(W) / num_data ]`, by any optimiser of
Torch, each mini-batch an unbiased estimate whatever its size.
Target: `log p(D | W) + sum_l s_l log pi_l(W_l)`, hyperparameters in `log` coordinates.
Source: Xiao, Li, Xie & Zhou (2023), arXiv:2304.02911; `docs/theory.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch.optim import Optimizer

from bayes_htr._checks import whole_number
from bayes_htr._torch import isolated_randomness
from bayes_htr.distributed import world_size
from bayes_htr.engine import Drift, Refresh
from bayes_htr.inference.map_trainer import AMP_DTYPES, DistributedMAPTrainer, MAPTrainer
from bayes_htr.inference.problem import Problem
from bayes_htr.inference.replica import (
    of_one_process,
)
from bayes_htr.inference.settings import SchedulerFactory, check_settings, describe_settings
from bayes_htr.inference.sharded import ShardedMAPTrainer


@dataclass(frozen=True)
class MAP:
    """Maximum a posteriori training.

    Args:
        lr: Learning rate.
        optimizer: A callable that makes the optimiser, as `optimizer(parameters, lr=lr)`.
        scheduler: `"cosine"` to zero over all epochs, `None`, or a callable that takes the
            optimiser, such as `partial(StepLR, step_size=10)`.
        scheduler_interval: Whether the schedule steps once per `"epoch"`, or after each update,
            `"step"`.
        patience: Stop after this many epochs without a better validation NLL, and keep the best
            weights. Early stopping needs `validation`.
        clip: Clip the gradient of all weights together to this norm.
        refresh: The policy that says when the prior's gradient is computed anew.
        accumulate: The number of batches whose gradients are added up before an update, which is
            then that of one batch with all their examples; the prior counts once. It saves memory:
            batches of 32 with `accumulate=4` take the steps that batches of 128 take.
        amp: `"bfloat16"` or `"float16"` calls the network under `torch.autocast` with this dtype;
            weights, loss and prior stay in their own. With `"float16"` a `torch.amp.GradScaler`
            scales the loss, and leaves out an update whose gradients overflow. Validation is in
            full precision.

    Hyperparameters with hyperpriors, those of the likelihood included, are optimised jointly, by
    Adam with a learning rate of 0.05.

    Raises:
        ValueError: A setting is out of range; in a run, an optimiser that needs a closure, such as
            LBFGS, is combined with a prior and another policy than `Exact()`, or with `"float16"`.
    """

    lr: float = 0.05
    optimizer: Callable[..., Optimizer] = field(default=partial(torch.optim.SGD, momentum=0.9))
    scheduler: Literal["cosine"] | SchedulerFactory | None = "cosine"
    patience: int | None = None
    clip: float | None = None
    refresh: Refresh = field(default_factory=Drift)
    accumulate: int = 1
    amp: Literal["bfloat16", "float16"] | None = None
    scheduler_interval: Literal["epoch", "step"] = "epoch"

    def __post_init__(self) -> None:
        check_settings(self)
        whole_number(self.accumulate, "accumulate", at_least=1)
        if self.amp not in (None, *AMP_DTYPES):
            raise ValueError(
                f"amp={self.amp!r} must be {' or '.join(map(repr, AMP_DTYPES))}, or None"
            )
        if not isinstance(self.refresh, Refresh):
            raise ValueError(
                f"refresh={self.refresh!r} must be a refresh policy, such as Drift(0.1)"
            )

    def describe(self) -> dict[str, Any]:
        """Return the settings as plain data; the newer ones are left out at their defaults."""
        newer = {"accumulate": int(self.accumulate)} if self.accumulate > 1 else {}
        amp = {} if self.amp is None else {"amp": self.amp}
        settings = {"name": "map", **describe_settings(self), "refresh": self.refresh.to_dict()}
        return {**settings, **newer, **amp}

    def prepare(self, problem: Problem) -> MAPTrainer:
        """Build the trainer, and evaluate the energy once, before anything is written.

        Raises:
            ValueError: Early stopping lacks validation data, or there is nothing to train.
            DataError: The last batch has one example, on which batch normalisation cannot train.
            SpectrumError: A law cannot score the weights.
        """
        with isolated_randomness():
            torch.manual_seed(problem.seed)
            trainer: MAPTrainer
            if problem.shard:
                trainer = ShardedMAPTrainer(self, of_one_process(problem))
            elif world_size() > 1:
                trainer = DistributedMAPTrainer(self, of_one_process(problem))
            else:
                if problem.epochs:
                    problem.train.check_last_batch(problem.net)
                trainer = MAPTrainer(self, problem)
            with torch.no_grad():
                trainer.energy(epoch=0)
        return trainer

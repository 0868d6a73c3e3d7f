"""Maximum a posteriori: the mode of the joint density in natural coordinates.

Update: `W <- W - lr * grad[ mean cross-entropy + energy(W) / num_data ]`, by any optimiser of
Torch, each mini-batch an unbiased estimate whatever its size.
Target: `log p(D | W) + sum_l s_l log pi_l(W_l)`, hyperparameters in `log` coordinates.
Source: Xiao, Li, Xie & Zhou (2023), arXiv:2304.02911; `docs/theory.md`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bayes_htr._terminal import TrainingProgress
from bayes_htr._torch import isolated_randomness
from bayes_htr.engine import Drift, Refresh, SpectralEnergy, bind
from bayes_htr.errors import SpectrumError
from bayes_htr.inference.distributed import align
from bayes_htr.inference.problem import Fitted, Problem, evaluate_batches
from bayes_htr.inference.replica import Replica
from bayes_htr.inference.settings import HYPER_LR
from bayes_htr.inference.training import (
    SchedulerFactory,
    TrainingRun,
    check_problem,
    check_settings,
    described_settings,
)


@dataclass(frozen=True)
class MAP:
    """Maximum a posteriori training.

    Args:
        lr: Learning rate.
        optimizer: Called as `optimizer(parameters, lr=lr)`.
        scheduler: `"cosine"` to zero over all epochs, `None`, or a callable that takes the
            optimiser, such as `partial(StepLR, step_size=10)`. It steps once per epoch.
        patience: Stop after this many epochs without a better validation NLL, and keep the best
            weights. Needs `validation`.
        clip: Clip the gradient of all weights together to this norm.
        refresh: When the prior's gradient is computed anew.

    Hyperparameters with hyperpriors are optimised jointly, by Adam with a learning rate of 0.05.

    Raises:
        ValueError: A setting out of range; in a run, an optimiser that needs a closure, such as
            LBFGS, with a prior and another policy than `Exact()`.
    """

    lr: float = 0.05
    optimizer: Callable[..., Optimizer] = field(default=partial(torch.optim.SGD, momentum=0.9))
    scheduler: Literal["cosine"] | SchedulerFactory | None = "cosine"
    patience: int | None = None
    clip: float | None = None
    refresh: Refresh = field(default_factory=Drift)

    def __post_init__(self) -> None:
        check_settings(self)
        if not isinstance(self.refresh, Refresh):
            raise ValueError(
                f"refresh={self.refresh!r} must be a refresh policy, such as Drift(0.1)"
            )

    def describe(self) -> dict[str, Any]:
        """The settings as plain data."""
        return {"name": "map", **described_settings(self), "refresh": self.refresh.to_dict()}

    def check(self, problem: Problem) -> None:
        """Set everything up and evaluate the energy once, before anything is written.

        Raises:
            ValueError: Early stopping without validation data, or nothing to train.
            SpectrumError: Weights that a law cannot score.
        """
        check_problem(self, problem)
        with isolated_randomness(), torch.no_grad():
            _Run(self, problem).energy(epoch=0)

    def run(self, problem: Problem) -> Fitted:
        """Train `problem.net` in place; see `bayes_htr.fit`.

        Raises:
            DivergenceError: A loss, weight or spectrum left the finite numbers.
        """
        with isolated_randomness():
            torch.manual_seed(problem.seed)
            return _Run(self, problem).train()


class _Run(TrainingRun):
    """The state of one training run."""

    label: ClassVar[str] = "MAP"
    method: MAP

    def __init__(self, method: MAP, problem: Problem) -> None:
        super().__init__(method, problem)
        self.energy: SpectralEnergy = bind(problem.model.priors, self.net, refresh=method.refresh)
        self.energy.to(self.weights[0].device)
        with torch.no_grad():
            for name, u in self.energy.latents().items():
                u.copy_(problem.hyperparameters.get(name, u))
        hyper = list(self.energy.parameters())
        self.hyper = torch.optim.Adam(hyper, lr=HYPER_LR) if hyper else None
        self._start(self.weights)
        if self.needs_closure and self.energy.holds:
            raise ValueError(
                f"{type(self.optimizer).__name__} compares losses within a step, and "
                f"{self.method.refresh!r} holds the prior's between refreshes; pass refresh=Exact()"
            )

    def train(self) -> Fitted:
        self.replica = Replica(self.net, self.problem.model.likelihood)
        self._align()
        self._train_epochs()
        if self.best is not None:
            self.net.load_state_dict(self.best["net"])
            self.energy.load_state_dict(self.best["energy"])
        self.net.eval()
        latents = {n: u.detach().cpu().clone() for n, u in self.energy.latents().items()}
        return Fitted(self.net, latents, self.history)

    def _train_batches(self, bar: TrainingProgress) -> dict[str, float]:
        device = self.problem.train.device
        totals = torch.zeros(3, dtype=torch.float64, device=device)  # loss, energy, correct
        unseen: list[Tensor] = []
        count = 0
        x = None
        for x, y, size in self.replica.steps(self.problem.train, self.problem.seed, self.epoch):
            loss, energy, correct = self._step(x, y, size)
            totals += torch.stack([loss * size, energy * size, correct]).to(totals)
            count += size
            unseen.append(loss)
            if self._is_time_to_check(unseen):
                self._check(unseen, x)
            self._stepped(x)
            bar.advance()
        self.replica.raise_failures()
        if x is not None:
            self._check(unseen, x)
            self._check_weights(x)
        self.last_batch = x
        loss_, energy_, correct_ = (totals / count).tolist()
        self._align()
        return {
            "loss": loss_,
            "train_nll": loss_ - energy_ / self.problem.train.num_data,
            "energy": energy_,
            "train_accuracy": correct_,
        }

    def _validate(self) -> tuple[float, float]:
        assert self.problem.validation is not None
        return evaluate_batches(self.net, self.problem.validation)

    def _align(self) -> None:
        """Give all processes the buffers and hyperparameters of the first."""
        align([*self.net.buffers(), *self.energy.parameters()])

    def _step(self, x: Tensor, y: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """One update: the loss, the energy, and how many labels were right, before it."""
        seen: list[tuple[Tensor, Tensor, Tensor]] = []

        def closure() -> Tensor:  # called more than once by optimisers such as LBFGS
            self.optimizer.zero_grad()
            if self.hyper is not None:
                self.hyper.zero_grad()
            nll, correct = self.replica.nll(x, y, size)
            nll.backward()
            num_data = self.problem.train.num_data
            energy = self.energy.backward(1 / num_data, epoch=self.epoch)
            loss = nll.detach() + energy.to(nll.device) / num_data
            if self.method.clip is not None:
                nn.utils.clip_grad_norm_(self.weights, self.method.clip)
            loss, correct = self.replica.combined(loss, correct)
            seen.append((loss, energy, correct))
            return loss

        try:
            if self.needs_closure:
                self.optimizer.step(closure)  # type: ignore[arg-type]  # closures return tensors
            else:
                closure()
                self.optimizer.step()
        except SpectrumError as error:
            raise self._diverged(str(error), self.step, x) from error
        if self.hyper is not None:
            self.hyper.step()
        self.step += 1
        return seen[0]

    def _learnt(self) -> list[Tensor]:
        return [*self.weights, *self.energy.parameters()]

    def _note(self, failure: Exception) -> None:
        self.replica.note(failure)

    def _raise_failures(self) -> None:
        self.replica.raise_failures()

    def _best_state(self) -> dict[str, Any]:
        return {
            "net": copy.deepcopy(self.net.state_dict()),
            "energy": copy.deepcopy(self.energy.state_dict()),
        }

    def _state(self) -> dict[str, Any]:
        return {
            "energy": self.energy.state_dict(),
            "hyper": None if self.hyper is None else self.hyper.state_dict(),
        }

    def _load_state(self, state: Mapping[str, Any]) -> None:
        self.energy.load_state_dict(state["energy"])
        if self.hyper is not None:
            self.hyper.load_state_dict(state["hyper"])

"""Maximum a posteriori: the mode of the joint density in natural coordinates.

Update: `W <- W - lr * grad[ mean cross-entropy + energy(W) / num_data ]`, by any optimiser of
Torch, each mini-batch an unbiased estimate whatever its size.
Target: `log p(D | W) + sum_l s_l log pi_l(W_l)`, hyperparameters in `log` coordinates.
Source: Xiao, Li, Xie & Zhou (2023), arXiv:2304.02911; `docs/theory.md`.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, ReduceLROnPlateau

from bayes_htr.engine import Drift, Refresh, SpectralEnergy, bind
from bayes_htr.errors import CheckpointError, SpectrumError
from bayes_htr.inference.distributed import Replica, align, from_main, is_main
from bayes_htr.inference.divergence import divergence
from bayes_htr.inference.modes import modes_of, set_modes
from bayes_htr.inference.problem import EpochEvent, Fitted, Problem, evaluate_batches
from bayes_htr.inference.progress import TrainingProgress
from bayes_htr.inference.randomness import isolated_randomness
from bayes_htr.inference.run_folder import CHECKPOINT, RunFolder
from bayes_htr.inference.settings import (
    cosine_rate,
    describe_setting,
    is_positive,
    needs_closure,
)

SchedulerFactory = Callable[[Optimizer], "LRScheduler | ReduceLROnPlateau"]

_HYPER_LR = 0.05
_CHECK_EVERY = 50
"""On an accelerator, steps between looks at the loss, each of which waits for the device."""


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
        if not is_positive(self.lr):
            raise ValueError(f"lr={self.lr!r} must be a positive number")
        if not callable(self.optimizer):
            raise ValueError(
                f"optimizer={self.optimizer!r} must be callable, such as torch.optim.Adam"
            )
        if not (self.scheduler in ("cosine", None) or callable(self.scheduler)):
            raise ValueError(f"scheduler={self.scheduler!r} must be 'cosine', None, or callable")
        if self.patience is not None and not (
            is_positive(self.patience) and self.patience == int(self.patience)
        ):
            raise ValueError(
                f"patience={self.patience!r} must be a positive whole number of epochs"
            )
        if self.clip is not None and not is_positive(self.clip):
            raise ValueError(f"clip={self.clip!r} must be a positive number")
        if not isinstance(self.refresh, Refresh):
            raise ValueError(
                f"refresh={self.refresh!r} must be a refresh policy, such as Drift(0.1)"
            )

    def describe(self) -> dict[str, Any]:
        """The settings as plain data."""
        return {
            "name": "map",
            "lr": float(self.lr),
            "optimizer": describe_setting(self.optimizer),
            "scheduler": describe_setting(self.scheduler),
            "patience": None if self.patience is None else int(self.patience),
            "clip": None if self.clip is None else float(self.clip),
            "refresh": self.refresh.to_dict(),
        }

    def check(self, problem: Problem) -> None:
        """Set everything up and evaluate the energy once, before anything is written.

        Raises:
            ValueError: Early stopping without validation data, or nothing to train.
            SpectrumError: Weights that a law cannot score.
        """
        if self.patience is not None and problem.validation is None:
            raise ValueError(
                f"patience={self.patience} needs validation data; pass validation=(X, y)"
            )
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


class _Run:
    """The state of one training run; everything here goes into checkpoints."""

    def __init__(self, method: MAP, problem: Problem) -> None:
        self.method = method
        self.problem = problem
        self.net = problem.net
        if not self.net.training:  # else layers that the user has put into evaluation mode stay
            self.net.train()
        self.modes = modes_of(self.net)
        self.energy: SpectralEnergy = bind(problem.model.priors, self.net, refresh=method.refresh)
        self.weights = [p for p in self.net.parameters() if p.requires_grad]
        if not self.weights:
            raise ValueError("the network has no trainable parameters; unfreeze some")
        self.energy.to(self.weights[0].device)
        with torch.no_grad():
            for name, u in self.energy.latents().items():
                u.copy_(problem.hyperparameters.get(name, u))
        self.epoch = 0
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] | None = None
        self.optimizer = method.optimizer(self.weights, lr=float(method.lr))
        self.needs_closure = needs_closure(self.optimizer)
        if self.needs_closure and self.energy.holds:
            raise ValueError(
                f"{type(self.optimizer).__name__} compares losses within a step, and "
                f"{method.refresh!r} holds the prior's between refreshes; pass refresh=Exact()"
            )
        hyper = list(self.energy.parameters())
        self.hyper = torch.optim.Adam(hyper, lr=_HYPER_LR) if hyper else None
        self.scheduler = self._scheduler()
        if problem.checkpoint is not None:
            self._restore(problem.checkpoint)

    def train(self) -> Fitted:
        problem = self.problem
        self.replica = Replica(self.net, problem.model.class_weights)
        self._align()
        if problem.folder is not None and problem.checkpoint is None:
            self._save()
        bar = TrainingProgress(
            problem.progress if is_main() else False,
            "MAP",
            epochs=problem.epochs,
            done=self.epoch,
            batches=len(problem.train),
        )
        with bar:
            while self.epoch < problem.epochs and not self._out_of_patience():
                metrics = self._train_epoch(bar)
                bar.epoch(metrics)
                self._save()
                if from_main(partial(self._called_off, metrics)):
                    break
        if self.best is not None:
            self.net.load_state_dict(self.best["net"])
            self.energy.load_state_dict(self.best["energy"])
        self.net.eval()
        latents = {n: u.detach().cpu().clone() for n, u in self.energy.latents().items()}
        return Fitted(self.net, latents, self.history)

    def _train_epoch(self, bar: TrainingProgress) -> dict[str, float]:
        start = time.perf_counter()
        set_modes(self.modes)  # a callback may have changed them
        device = self.problem.train.device
        totals = torch.zeros(3, dtype=torch.float64, device=device)  # loss, energy, correct
        unseen: list[Tensor] = []
        count = 0
        x = None
        lr = self.optimizer.param_groups[0]["lr"]
        for x, y, size in self.replica.steps(self.problem.train, self.problem.seed, self.epoch):
            loss, energy, correct = self._step(x, y, size)
            totals += torch.stack([loss * size, energy * size, correct]).to(totals)
            count += size
            unseen.append(loss)
            if device.type == "cpu" or len(unseen) == _CHECK_EVERY:
                self._check(unseen, x)
            bar.batch()
        self.replica.raise_failures()
        if x is not None:
            self._check(unseen, x)
            self._check_weights(x)
        loss_, energy_, correct_ = (totals / count).tolist()
        self._align()
        metrics = {
            "epoch": float(self.epoch + 1),
            "loss": loss_,
            "train_nll": loss_ - energy_ / self.problem.train.num_data,
            "energy": energy_,
            "train_accuracy": correct_,
            "lr": float(lr),
        }
        if self.problem.validation is not None:
            nll, accuracy = evaluate_batches(self.net, self.problem.validation)
            if x is not None and not math.isfinite(nll):
                raise self._diverged(f"the validation NLL is {nll}", self.step - 1, x)
            metrics |= {"val_nll": nll, "val_accuracy": accuracy}
        self.epoch += 1
        if self.method.patience is not None:
            self._note_best(metrics["val_nll"])
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(metrics.get("val_nll", metrics["loss"]))
        elif self.scheduler is not None:
            self.scheduler.step()
        metrics["seconds"] = time.perf_counter() - start
        self.history.append(metrics)
        return metrics

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

    def _check(self, unseen: list[Tensor], x: Tensor) -> None:
        """Raise if one of the losses since the last look is not finite; forget them."""
        finite = torch.isfinite(torch.stack(unseen)).tolist() if unseen else []
        if not all(finite):
            self.replica.raise_failures()
            first = finite.index(False)
            step = self.step - len(unseen) + first
            raise self._diverged(f"the loss is {unseen[first].item()}", step, x)
        unseen.clear()

    def _check_weights(self, x: Tensor) -> None:
        """Raise if the last update, which no loss has seen yet, left the finite numbers."""
        for p in (*self.weights, *self.energy.parameters()):
            if not bool(torch.isfinite(p).all()):
                raise self._diverged("a weight is not finite after it", self.step - 1, x)

    def _called_off(self, metrics: dict[str, float]) -> bool:
        """Whether a callback asks to end training: for now, since a resumed run goes on."""
        with isolated_randomness():
            event = EpochEvent(self.epoch, dict(metrics), self.net)
            answers = [callback(event) for callback in self.problem.callbacks]
        return any(answer is True for answer in answers)

    def _diverged(self, reason: str, step: int, x: Tensor) -> Exception:
        folder = self.problem.folder
        return divergence(
            reason,
            step=step,
            epoch=self.epoch,
            net=self.net,
            x=x,
            checkpoint=None if folder is None else folder.path / CHECKPOINT,
        )

    def _note_best(self, nll: float) -> None:
        if self.best is None or nll < self.best["nll"]:
            self.best = {
                "nll": nll,
                "epoch": self.epoch,
                "net": copy.deepcopy(self.net.state_dict()),
                "energy": copy.deepcopy(self.energy.state_dict()),
            }

    def _out_of_patience(self) -> bool:
        if self.method.patience is None or self.best is None:
            return False
        return self.epoch - int(self.best["epoch"]) >= self.method.patience

    def _scheduler(self) -> LRScheduler | ReduceLROnPlateau | None:
        if self.method.scheduler is None:
            return None
        if self.method.scheduler == "cosine":
            return CosineAnnealingLR(self.optimizer, T_max=max(1, self.problem.epochs))
        return self.method.scheduler(self.optimizer)

    def _bend_cosine(self, done: int) -> None:
        """Make the restored curve that over the epochs asked for now, which may be more."""
        assert isinstance(self.scheduler, CosineAnnealingLR)
        epochs = max(1, self.problem.epochs)
        if self.scheduler.T_max == epochs:
            return
        self.scheduler.T_max = epochs
        bases = self.scheduler.base_lrs
        for group, base in zip(self.optimizer.param_groups, bases, strict=True):
            rate = cosine_rate(float(base), epochs, done)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _save(self) -> None:
        folder = self.problem.folder
        if folder is not None:
            from_main(partial(self._write, folder))

    def _write(self, folder: RunFolder) -> None:
        state = {
            "epoch": self.epoch,
            "step": self.step,
            "history": self.history,
            "best": self.best,
            "net": self.net.state_dict(),
            "energy": self.energy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "hyper": None if self.hyper is None else self.hyper.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "order": [g.get_state() for g in self.problem.train.generators],
        }
        folder.write_checkpoint(state)
        folder.write_metrics(self.history)

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.net.load_state_dict(state["net"])
            self.energy.load_state_dict(state["energy"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.scheduler is not None:
                self.scheduler.load_state_dict(state["scheduler"])
            if isinstance(self.scheduler, CosineAnnealingLR) and self.method.scheduler == "cosine":
                self._bend_cosine(state["epoch"])
            if self.hyper is not None:
                self.hyper.load_state_dict(state["hyper"])
            torch.set_rng_state(state["random"])
            if state["random_cuda"] and torch.cuda.is_available():
                torch.cuda.set_rng_state_all(state["random_cuda"])
            for generator, order in zip(self.problem.train.generators, state["order"], strict=True):
                generator.set_state(order)
            self.epoch, self.step = state["epoch"], state["step"]
            self.history, self.best = state["history"], state["best"]
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise CheckpointError(
                f"the checkpoint in {self.problem.folder.path if self.problem.folder else ''} does "
                f"not fit this run: {error}"
            ) from error

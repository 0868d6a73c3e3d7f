"""What every method that trains by mini-batch gradients does: epochs, checkpoints, early stopping.

A method's run adds what is learnt, and what one epoch is.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, ReduceLROnPlateau

from bayes_htr._terminal import TrainingProgress
from bayes_htr._torch import isolated_randomness, modes_of, set_modes
from bayes_htr.errors import CheckpointError, SpectrumError
from bayes_htr.inference.callbacks import EpochEvent, StepCallback, StepEvent
from bayes_htr.inference.distributed import from_main, is_main, raise_failures
from bayes_htr.inference.divergence import divergence
from bayes_htr.inference.problem import Problem
from bayes_htr.inference.run_folder import CHECKPOINT, RunFolder
from bayes_htr.inference.settings import cosine_rate, describe_setting, is_positive, needs_closure
from bayes_htr.processes import world_size

SchedulerFactory = Callable[[Optimizer], "LRScheduler | ReduceLROnPlateau"]

_CHECK_EVERY = 50
"""On an accelerator, steps between looks at the loss, each of which waits for the device."""


class TrainingSettings(Protocol):
    """The settings that every such method has."""

    @property
    def lr(self) -> float:
        """The learning rate."""
        ...

    @property
    def optimizer(self) -> Callable[..., Optimizer]:
        """Makes the optimiser."""
        ...

    @property
    def scheduler(self) -> Literal["cosine"] | SchedulerFactory | None:
        """The schedule of the learning rate."""
        ...

    @property
    def patience(self) -> int | None:
        """Epochs without a better validation NLL before training ends."""
        ...

    @property
    def clip(self) -> float | None:
        """The largest norm of a gradient."""
        ...


def check_settings(method: TrainingSettings) -> None:
    """Hold these settings to their ranges.

    Raises:
        ValueError: One is out of range.
    """
    if not is_positive(method.lr):
        raise ValueError(f"lr={method.lr!r} must be a positive number")
    if not callable(method.optimizer):
        raise ValueError(
            f"optimizer={method.optimizer!r} must be callable, such as torch.optim.Adam"
        )
    if not (method.scheduler in ("cosine", None) or callable(method.scheduler)):
        raise ValueError(f"scheduler={method.scheduler!r} must be 'cosine', None, or callable")
    if method.patience is not None and not (
        is_positive(method.patience) and method.patience == int(method.patience)
    ):
        raise ValueError(f"patience={method.patience!r} must be a positive whole number of epochs")
    if method.clip is not None and not is_positive(method.clip):
        raise ValueError(f"clip={method.clip!r} must be a positive number")


def described_settings(method: TrainingSettings) -> dict[str, Any]:
    """These settings as plain data."""
    return {
        "lr": float(method.lr),
        "optimizer": describe_setting(method.optimizer),
        "scheduler": describe_setting(method.scheduler),
        "patience": None if method.patience is None else int(method.patience),
        "clip": None if method.clip is None else float(method.clip),
    }


def check_problem(method: TrainingSettings, problem: Problem) -> None:
    """Look for what would stop training later.

    Raises:
        ValueError: Early stopping without validation data.
        DataError: A last batch of one example, on which batch normalisation cannot train.
    """
    if problem.epochs and world_size() == 1:
        problem.train.check_last_batch(problem.net)
    if method.patience is not None and problem.validation is None:
        raise ValueError(
            f"patience={method.patience} needs validation data; pass validation=(X, y)"
        )


class TrainingRun(ABC):
    """The state of one training run; everything here goes into checkpoints.

    A subclass first calls `__init__`, then makes what it learns, then calls `_start`.

    Args:
        method: The settings.
        problem: What to train.

    Raises:
        ValueError: Nothing to train.
    """

    label: ClassVar[str]
    """What stands before the progress bar."""

    def __init__(self, method: TrainingSettings, problem: Problem) -> None:
        self.method = method
        self.problem = problem
        self.net = problem.net
        if not self.net.training:  # else layers that the user has put into evaluation mode stay
            self.net.train()
        self.modes = modes_of(self.net)
        self.weights = [p for p in self.net.parameters() if p.requires_grad]
        if not self.weights:
            raise ValueError("the network has no trainable parameters; unfreeze some")
        self.epoch = 0
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] | None = None
        self.last_batch: Tensor | None = None
        callbacks = problem.callbacks if is_main() else ()
        self.followers = [c for c in callbacks if isinstance(c, StepCallback)]

    def _start(self, parameters: list[nn.Parameter]) -> None:
        """Make the optimiser and its schedule, and go on from the checkpoint, if there is one."""
        self.optimizer = self.method.optimizer(parameters, lr=float(self.method.lr))
        self.needs_closure = needs_closure(self.optimizer)
        self.scheduler = self._scheduler()
        if self.problem.checkpoint is not None:
            self._restore(self.problem.checkpoint)

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """What is learnt besides the network, for checkpoints."""

    @abstractmethod
    def _load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `_state`."""

    @abstractmethod
    def _learnt(self) -> list[Tensor]:
        """All that the optimiser changes."""

    @abstractmethod
    def _train_batches(self, bar: TrainingProgress) -> dict[str, float]:
        """An epoch's updates, and its metrics."""

    @abstractmethod
    def _validate(self) -> tuple[float, float]:
        """NLL and accuracy on the validation data."""

    @abstractmethod
    def _best_state(self) -> dict[str, Any]:
        """A copy of what early stopping comes back to."""

    def _present(self, x: Tensor) -> None:  # noqa: B027  (as a rule it is so all along)
        """Make the network what callbacks are to see."""

    def _note(self, failure: Exception) -> None:
        """Raise what a callback raised between two updates; several processes end together."""
        raise failure

    def _train_epochs(self) -> None:
        """Train to the end, with a checkpoint after every epoch."""
        problem = self.problem
        if problem.folder is not None and problem.checkpoint is None:
            self._save()
        bar = TrainingProgress(
            problem.progress if is_main() else False,
            self.label,
            epochs=problem.epochs,
            done=self.epoch,
            batches=len(problem.train),
        )
        from_main(partial(self._tell, "on_start"))
        with bar:
            while self.epoch < problem.epochs and not self._out_of_patience():
                metrics = self._train_epoch(bar)
                bar.epoch(metrics)
                self._save()
                if from_main(partial(self._called_off, metrics)):
                    break
        from_main(partial(self._tell, "on_end"))

    def _train_epoch(self, bar: TrainingProgress) -> dict[str, float]:
        start = time.perf_counter()
        set_modes(self.modes)  # a callback may have changed them
        lr = self.optimizer.param_groups[0]["lr"]
        metrics = {"epoch": float(self.epoch + 1), **self._train_batches(bar), "lr": float(lr)}
        if self.problem.validation is not None:
            nll, accuracy = self._validate()
            if self.last_batch is not None and not math.isfinite(nll):
                reason = f"the validation NLL is {nll}"
                raise self._diverged(reason, self.step - 1, self.last_batch)
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

    def _is_time_to_check(self, unseen: list[Tensor]) -> bool:
        return self.problem.train.device.type == "cpu" or len(unseen) == _CHECK_EVERY

    def _check(self, unseen: list[Tensor], x: Tensor) -> None:
        """Raise if one of the losses since the last look is not finite; forget them."""
        finite = torch.isfinite(torch.stack(unseen)).tolist() if unseen else []
        if not all(finite):
            self._raise_failures()
            first = finite.index(False)
            step = self.step - len(unseen) + first
            raise self._diverged(f"the loss is {unseen[first].item()}", step, x)
        unseen.clear()

    def _stepped(self, x: Tensor) -> None:
        """Show the network to the callbacks for which this step is due."""
        for callback in self.followers:
            try:
                if callback.is_due(self.step):
                    self._present(x)
                    self._show(callback.on_step)
            except SpectrumError as error:
                self._note(self._diverged(str(error), self.step - 1, x))
            except Exception as error:
                self._note(error)

    def _tell(self, hook: Literal["on_start", "on_end"]) -> None:
        """Call one hook of all callbacks that follow the steps."""
        for callback in self.followers:
            self._show(getattr(callback, hook))

    def _show(self, hook: Callable[[StepEvent], None]) -> None:
        with isolated_randomness():
            hook(StepEvent(self.step, self.step / len(self.problem.train), self.net))

    def _raise_failures(self) -> None:
        """Raise what has gone wrong in another process."""
        raise_failures(None)

    def _check_weights(self, x: Tensor) -> None:
        """Raise if the last update, which no loss has seen yet, left the finite numbers."""
        for p in self._learnt():
            if not bool(torch.isfinite(p).all()):
                raise self._diverged("a weight is not finite after it", self.step - 1, x)

    def _called_off(self, metrics: dict[str, float]) -> bool:
        """Whether a callback asks to end training: for now, since a resumed run goes on."""
        with isolated_randomness():
            event = EpochEvent(self.epoch, dict(metrics), self.net)
            answers = [callback(event) for callback in self.problem.callbacks]
        return any(_is_true(answer) for answer in answers)

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
            self.best = {"nll": nll, "epoch": self.epoch, **self._best_state()}

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
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "order": [g.get_state() for g in self.problem.train.generators],
            **self._state(),
        }
        folder.write_checkpoint(state)
        folder.write_metrics(self.history)

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.net.load_state_dict(state["net"])
            self._load_state(state)
            self.optimizer.load_state_dict(state["optimizer"])
            if self.scheduler is not None:
                self.scheduler.load_state_dict(state["scheduler"])
            if isinstance(self.scheduler, CosineAnnealingLR) and self.method.scheduler == "cosine":
                self._bend_cosine(state["epoch"])
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


def _is_true(answer: object) -> bool:
    """Whether this is the boolean `True`, of Python, numpy or torch; other values say nothing."""
    if isinstance(answer, Tensor) and answer.ndim == 0 and answer.dtype == torch.bool:
        return bool(answer)
    return isinstance(answer, (bool, np.bool_)) and bool(answer)

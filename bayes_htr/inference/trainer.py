"""A training run by mini-batch gradients: epochs, checkpoints, early stopping and callbacks.

`Trainer` is the part that `htr.MAP` and `htr.SVI` share. A subclass makes the energy or the guide,
and defines a single update and the metrics of an epoch.
"""

from __future__ import annotations

import copy
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from bayes_htr._checks import whole_number
from bayes_htr._terminal import TrainingProgress
from bayes_htr._threads import with_threads
from bayes_htr._torch import isolated_randomness, modes_of, set_modes
from bayes_htr.engine.optimizer import HYPER_LR
from bayes_htr.engine.optimizer_kinds import needs_closure
from bayes_htr.errors import CheckpointError, DivergenceError, SpectrumError
from bayes_htr.inference.callbacks import EpochEvent, StepCallback, StepEvent
from bayes_htr.inference.data import generators_of
from bayes_htr.inference.nonfinite import divergence
from bayes_htr.inference.problem import Fitted, Problem
from bayes_htr.inference.run_folder import CHECKPOINT, RunFolder
from bayes_htr.inference.schedule import Schedule
from bayes_htr.inference.settings import TrainingSettings, restore_optimizer
from bayes_htr.models.inputs import Inputs

B = TypeVar("B")

_CHECK_EVERY = 50
"""Steps between two looks at the loss on an accelerator, each of which waits for the device."""


class Trainer(ABC):
    """One training run, whose whole state is saved in checkpoints.

    Args:
        method: The settings.
        problem: The model to train, with its data.
        learnt: The modules that are learnt besides the network, by their names in checkpoints: an
            energy or a guide, and the hyperparameters of the likelihood if it has any.
        parameters: The parameters that the method's optimiser updates.
        hyperparameters: The parameters that another optimiser updates, an Adam with a learning rate
            of 0.05.
        accumulate: The number of batches per update.

    Raises:
        ValueError: Early stopping lacks validation data, or the schedule cannot step as asked.
    """

    label: ClassVar[str]
    """The text before the progress bar."""

    def __init__(
        self,
        method: TrainingSettings,
        problem: Problem,
        learnt: Mapping[str, nn.Module],
        parameters: list[nn.Parameter],
        hyperparameters: list[nn.Parameter],
        *,
        accumulate: int = 1,
    ) -> None:
        if method.patience is not None and problem.validation is None:
            raise ValueError(
                f"patience={method.patience} needs validation data; pass validation=(X, y)"
            )
        self.method = method
        self.problem = problem
        self.net = problem.net
        if not self.net.training:  # otherwise layers in evaluation mode stay in it
            self.net.train()
        self.modes = modes_of(self.net)
        self.learnt = dict(learnt)
        self.accumulate = accumulate
        self.likelihood = problem.model.likelihood
        self.num_data = problem.train.num_data
        self.optimizer = method.optimizer(parameters, lr=float(method.lr))
        self.needs_closure = needs_closure(self.optimizer)
        self.updates_per_epoch = -(-len(problem.train) // accumulate)
        self.schedule = Schedule(
            method, self.optimizer, epochs=problem.epochs, updates=self.updates_per_epoch
        )
        self.hyper_optimizer = (
            torch.optim.Adam(hyperparameters, lr=HYPER_LR) if hyperparameters else None
        )
        self.scaler: GradScaler | None = None  # of losses in half precision
        self.folder: RunFolder | None = None
        self.epoch = 0
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] | None = None
        self.step_callbacks = [c for c in problem.callbacks if isinstance(c, StepCallback)]
        self.unchecked_losses: list[Tensor] = []  # losses of the last steps

    # What a method defines

    @abstractmethod
    def update(self, parts: Sequence[tuple[Inputs, Tensor]], size: int) -> tuple[Tensor, Tensor]:
        """Update what is learnt by one batch, or by several as if they were one.

        Args:
            parts: Inputs `(N, ...)` and labels `(N, ...)` of each of `accumulate` batches.
            size: The number of examples in all of them, or more where several processes share the
                batches.

        Returns:
            The loss before the update, 0-d; and three sums over the examples, `(3,)`, whose means
            over the epoch's examples are given to `metrics`.
        """

    @abstractmethod
    def metrics(self, means: list[float]) -> dict[str, float]:
        """Return the metrics of an epoch by name, from the means of the sums of `update`."""

    @abstractmethod
    def validate(self) -> tuple[float, float]:
        """Return means over the validation data: NLL (nats) and the likelihood's score."""

    @abstractmethod
    def fitted(self) -> Fitted:
        """Return the result of the run, with the network in evaluation mode."""

    def follow_priors(self, epoch: int) -> None:  # noqa: B027  (an energy is told the epoch)
        """Use the priors with their strengths at an epoch, counted from 0."""

    def update_network(self, x: Inputs) -> None:  # noqa: B027  (MAP updates the network itself)
        """Give the network the weights that callbacks and validation are to see.

        Args:
            x: The inputs of the last batch, which help to explain an error.
        """

    # The run

    def run(
        self, folder: RunFolder | None = None, checkpoint: dict[str, Any] | None = None
    ) -> Fitted:
        """Train to the end, with a checkpoint after every epoch; see `bayes_htr.fit`.

        Args:
            folder: The run folder, if any.
            checkpoint: The state from which to resume, if any.

        Raises:
            DivergenceError: A loss, weight or spectrum became NaN or infinite.
            CheckpointError: The checkpoint does not fit this run.
        """
        self.folder = folder
        problem = self.problem
        with isolated_randomness():
            torch.manual_seed(problem.seed)
            if checkpoint is None:
                self.save()
            else:
                self.restore(checkpoint)
            bar = TrainingProgress(
                problem.progress,
                with_threads(self.label, problem.train.device),
                epochs=problem.epochs,
                done=self.epoch,
                batches=len(problem.train),
            )
            with self.closed_callbacks():
                self.run_hooks("on_start")
                with bar:
                    while self.epoch < problem.epochs and not self.is_out_of_patience():
                        metrics = self.train_epoch(bar)
                        bar.epoch(metrics)
                        self.save()
                        if self.should_stop(metrics):
                            break
                    if self.best is not None:
                        bar.kept(self.best, self.epoch, is_early=self.is_out_of_patience())
                self.run_hooks("on_end")
            if self.best is not None:
                self._load_learnt(self.best)
            return self.fitted()

    def train_epoch(self, bar: TrainingProgress) -> dict[str, float]:
        """Train for one epoch, validate, and return the epoch's metrics."""
        start = time.perf_counter()
        set_modes(self.modes)  # a callback may have changed them
        lr = self.schedule.lr
        means, last_batch = self.train_batches(bar)
        metrics = {"epoch": float(self.epoch + 1), **self.metrics(means), "lr": lr}
        if self.problem.validation is not None:
            nll, score = self.validate()
            if last_batch is not None and not math.isfinite(nll):
                raise self.diverged(f"the validation NLL is {nll}", self.step - 1, last_batch)
            metrics |= {"val_nll": nll, **self.named_score("val", score)}
        self.epoch += 1
        if self.method.patience is not None:
            self._note_best(metrics["val_nll"])
        self.schedule.after_epoch(metrics)
        metrics["seconds"] = time.perf_counter() - start
        self.history.append(metrics)
        return metrics

    def named_score(self, where: str, mean: float) -> dict[str, float]:
        """Return the likelihood's score under its name in the history; empty if there is none."""
        score = self.likelihood.named_score(mean)
        return {} if math.isnan(score) else {f"{where}_{self.likelihood.score_name}": score}

    def train_batches(self, bar: TrainingProgress) -> tuple[list[float], Inputs | None]:
        """Update by every batch of the epoch.

        Returns:
            The means of the sums of `update` over the examples of the epoch, and the inputs of the
            last batch.
        """
        train = self.problem.train
        train.set_epoch(self.epoch)
        if self.epoch:
            self.follow_priors(self.epoch)
        sums = torch.zeros(3, dtype=torch.float64, device=train.device)
        count, x = 0, None
        for parts in grouped(train, self.accumulate):
            size, x = sum(len(y) for _, y in parts), parts[-1][0]
            loss, of_batch = self.update(parts, size)
            sums += of_batch.to(sums)
            count += size
            self.after_step(loss, x)
            bar.advance(len(parts))
        if x is not None:
            self.check_losses(x)
            self.check_weights(x)
            self.update_network(x)
        return (sums / count).tolist(), x

    def after_step(self, loss: Tensor, x: Inputs) -> None:
        """Count an update, check its loss, and call the callbacks for which the step is due."""
        self.step += 1
        if self.schedule.steps_by_update:
            self.schedule.after_update()
        self.unchecked_losses.append(loss)
        if self.problem.train.device.type == "cpu" or len(self.unchecked_losses) == _CHECK_EVERY:
            self.check_losses(x)
        if self.step_callbacks:
            self.run_step_callbacks(x)

    # Numbers that are not finite

    def check_losses(self, x: Inputs) -> None:
        """Raise if one of the losses since the last check is not finite."""
        losses, self.unchecked_losses = self.unchecked_losses, []
        finite = torch.isfinite(torch.stack(losses)).tolist() if losses else []
        if not all(finite):
            first = finite.index(False)
            step = self.step - len(losses) + first
            raise self.diverged(f"the loss is {losses[first].item()}", step, x)

    def check_weights(self, x: Inputs) -> None:
        """Raise if the last update, which no loss has seen yet, made a weight not finite."""
        for optimizer in (self.optimizer, self.hyper_optimizer):
            for group in [] if optimizer is None else optimizer.param_groups:
                if not all(bool(torch.isfinite(p).all()) for p in group["params"]):
                    raise self.diverged("a weight is not finite after it", self.step - 1, x)

    def diverged(self, reason: str, step: int, x: Inputs) -> DivergenceError:
        """Return the error to raise; it names step, epoch, layer, and the last good checkpoint."""
        last = None if self.folder is None else self.folder.path / CHECKPOINT
        return divergence(reason, step, self.epoch, last, self.net, x)

    # Callbacks

    def run_step_callbacks(self, x: Inputs) -> None:
        """Show the network to the callbacks for which this step is due."""
        for callback in self.step_callbacks:
            if callback.is_due(self.step):
                self.update_network(x)
                try:
                    self._run_hook(callback.on_step)
                except SpectrumError as error:
                    raise self.diverged(str(error), self.step - 1, x) from error

    def run_hooks(self, name: Literal["on_start", "on_end"]) -> None:
        """Call the method `name` of all step callbacks."""
        for callback in self.step_callbacks:
            self._run_hook(getattr(callback, name))

    @contextmanager
    def closed_callbacks(self) -> Iterator[None]:
        """Close the callbacks that follow the steps at the end of a block, also after an error."""
        try:
            yield
        except BaseException as error:
            for callback in self.step_callbacks:
                callback.close(error)
            raise
        for callback in self.step_callbacks:
            callback.close(None)

    def _run_hook(self, hook: Callable[[StepEvent], None]) -> None:
        with isolated_randomness():
            epochs = self.step / self.updates_per_epoch
            hook(StepEvent(self.step, epochs, self.net, self.problem.model.priors.matrices))

    def should_stop(self, metrics: dict[str, float]) -> bool:
        """Call the callbacks after an epoch, and return whether one of them asks to stop.

        A run that was stopped in this way continues when it is resumed.
        """
        with isolated_randomness():
            layouts = self.problem.model.priors.matrices
            event = EpochEvent(self.epoch, dict(metrics), self.net, layouts)
            answers = [callback(event) for callback in self.problem.callbacks]
        return any(_is_true(answer) for answer in answers)

    # Early stopping

    def _note_best(self, nll: float) -> None:
        if self.best is None or nll < self.best["nll"]:
            learnt = copy.deepcopy(self._learnt_state())
            self.best = {"nll": nll, "epoch": self.epoch, **learnt}

    def _check_best(self, best: Mapping[str, Any]) -> None:
        """Raise an error unless the best epoch of a checkpoint has every entry of `_note_best`."""
        if not isinstance(best["nll"], float):
            raise ValueError(f"the best validation NLL is {best['nll']!r}")
        whole_number(best["epoch"], "the best epoch")
        if missing := self._learnt_state().keys() - best.keys():
            raise KeyError(*missing)

    def is_out_of_patience(self) -> bool:
        """Return whether the validation NLL has not improved for `patience` epochs."""
        if self.method.patience is None or self.best is None:
            return False
        return self.epoch - int(self.best["epoch"]) >= self.method.patience

    # Checkpoints

    def save(self) -> None:
        """Write a checkpoint and the metrics, if there is a run folder."""
        if self.folder is not None:
            self.folder.write_checkpoint(self.state(), self.history)

    def state(self) -> dict[str, Any]:
        """Return all that a run needs to go on, as plain data and tensors."""
        hyper = self.hyper_optimizer
        state = {
            "epoch": self.epoch,
            "step": self.step,
            "history": self.history,
            "best": self.best,
            **self._learnt_state(),
            "optimizer": self.optimizer.state_dict(),
            "hyper": None if hyper is None else hyper.state_dict(),
            "scheduler": self.schedule.state(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "order": [g.get_state() for g in generators_of(self.problem.train.loader)],
        }
        if self.scaler is not None:
            state["scaler"] = self.scaler.state_dict()
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the state that `save` has written.

        Raises:
            CheckpointError: The state is that of another run.
        """
        try:
            self._load_learnt(state)
            restore_optimizer(self.optimizer, state["optimizer"])
            if self.hyper_optimizer is not None:
                restore_optimizer(self.hyper_optimizer, state["hyper"])
            self.schedule.restore(state["scheduler"], epoch=state["epoch"], step=state["step"])
            if self.scaler is not None:
                self.scaler.load_state_dict(state["scaler"])
            torch.set_rng_state(state["random"])
            if state["random_cuda"] and torch.cuda.is_available():
                torch.cuda.set_rng_state_all(state["random_cuda"])
            generators = generators_of(self.problem.train.loader)
            for generator, order in zip(generators, state["order"], strict=True):
                generator.set_state(order)
            self.epoch = whole_number(state["epoch"], "epoch")
            self.step = whole_number(state["step"], "step")
            self.history, self.best = list(state["history"]), state["best"]
            if [row["epoch"] for row in self.history] != list(range(1, self.epoch + 1)):
                raise ValueError(f"its history is not that of {self.epoch} epochs")
            if self.best is not None:
                self._check_best(self.best)
        except Exception as error:  # a foreign state may raise anything
            raise CheckpointError(
                f"the checkpoint in {self.folder.path if self.folder else ''} does not fit this "
                f"run ({type(error).__name__}: {error}); start the run anew in another folder"
            ) from error

    def _learnt_state(self) -> dict[str, Any]:
        learnt = {name: module.state_dict() for name, module in self.learnt.items()}
        return {"net": self.net.state_dict(), **learnt}

    def _load_learnt(self, state: Mapping[str, Any]) -> None:
        """Load the network and `learnt` from a checkpoint or from the state of the best epoch."""
        self.net.load_state_dict(state["net"])
        if state["epoch"]:  # the priors of that epoch come before what was learnt under them
            self.follow_priors(int(state["epoch"]) - 1)
        for name, module in self.learnt.items():
            module.load_state_dict(state[name])


def grouped(batches: Iterable[B], count: int) -> Iterator[list[B]]:
    """Yield batches in groups of `count`, of which the last may have fewer."""
    group: list[B] = []
    for batch in batches:
        group.append(batch)
        if len(group) == count:
            yield group
            group = []
    if group:
        yield group


def trainable_weights(net: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a network that are not frozen.

    Raises:
        ValueError: All parameters are frozen.
    """
    weights = [p for p in net.parameters() if p.requires_grad]
    if not weights:
        raise ValueError("the network has no trainable parameters; unfreeze some")
    return weights


def _is_true(answer: object) -> bool:
    """Return whether this is the boolean `True` of Python, NumPy or PyTorch, and nothing else."""
    if isinstance(answer, Tensor) and answer.ndim == 0 and answer.dtype == torch.bool:
        return bool(answer)
    return isinstance(answer, (bool, np.bool_)) and bool(answer)

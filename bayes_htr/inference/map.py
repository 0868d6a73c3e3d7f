"""Maximum a posteriori: the mode of the joint density in natural coordinates.

Update: `W <- W - lr * grad[ mean cross-entropy + energy(W) / num_data ]`, by any optimiser of
Torch, each mini-batch an unbiased estimate whatever its size.
Target: `log p(D | W) + sum_l s_l log pi_l(W_l)`, hyperparameters in `log` coordinates.
Source: Xiao, Li, Xie & Zhou (2023), arXiv:2304.02911; `docs/theory.md`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bayes_htr._terminal import TrainingProgress
from bayes_htr._torch import isolated_randomness
from bayes_htr.distributed import copy_from_rank0, rank, run_on_rank0, world_size
from bayes_htr.engine import Drift, Refresh, SpectralEnergy, bind
from bayes_htr.errors import SpectrumError
from bayes_htr.inference.problem import Fitted, Problem, score_sums
from bayes_htr.inference.replica import Replica, evaluate_replicas
from bayes_htr.inference.run_folder import RunFolder
from bayes_htr.inference.settings import SchedulerFactory, check_settings, describe_settings
from bayes_htr.inference.trainer import Trainer, trainable_weights


@dataclass(frozen=True)
class MAP:
    """Maximum a posteriori training.

    Args:
        lr: Learning rate.
        optimizer: A callable that makes the optimiser, as `optimizer(parameters, lr=lr)`.
        scheduler: `"cosine"` to zero over all epochs, `None`, or a callable that takes the
            optimiser, such as `partial(StepLR, step_size=10)`. The schedule steps once per epoch.
        patience: Stop after this many epochs without a better validation NLL, and keep the best
            weights. Early stopping needs `validation`.
        clip: Clip the gradient of all weights together to this norm.
        refresh: The policy that says when the prior's gradient is computed anew.

    Hyperparameters with hyperpriors are optimised jointly, by Adam with a learning rate of 0.05.

    Raises:
        ValueError: A setting is out of range; in a run, an optimiser that needs a closure, such as
            LBFGS, is combined with a prior and another policy than `Exact()`.
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
        """Return the settings as plain data."""
        return {"name": "map", **describe_settings(self), "refresh": self.refresh.to_dict()}

    def prepare(self, problem: Problem) -> MAPTrainer:
        """Build the trainer, and evaluate the energy once, before anything is written.

        Raises:
            ValueError: Early stopping without validation data, or nothing to train.
            DataError: A last batch of one example, on which batch normalisation cannot train.
            SpectrumError: Weights that a law cannot score.
        """
        with isolated_randomness():
            torch.manual_seed(problem.seed)
            if world_size() > 1:
                trainer: MAPTrainer = DistributedMAPTrainer(self, problem)
            else:
                if problem.epochs:
                    problem.train.check_last_batch(problem.net)
                trainer = MAPTrainer(self, problem)
            with torch.no_grad():
                trainer.energy(epoch=0)
        return trainer


class MAPTrainer(Trainer):
    """Training by MAP in one process.

    Args:
        method: The settings.
        problem: What to train.

    Raises:
        ValueError: Nothing to train, early stopping without validation data, or an optimiser that
            needs a closure under a policy that holds gradients.
    """

    label: ClassVar[str] = "MAP"
    learnt_name: ClassVar[str] = "energy"

    def __init__(self, method: MAP, problem: Problem) -> None:
        self.weights = trainable_weights(problem.net)
        self.energy: SpectralEnergy = bind(
            problem.model.priors, problem.net, refresh=method.refresh
        )
        self.energy.to(self.weights[0].device)
        with torch.no_grad():
            for name, u in self.energy.latents().items():
                u.copy_(problem.hyperparameters.get(name, u))
        hyperparameters = list(self.energy.parameters())
        super().__init__(method, problem, self.energy, self.weights, hyperparameters)
        self.likelihood = problem.model.likelihood
        self.num_data = problem.train.num_data
        if self.needs_closure and self.energy.caches:
            raise ValueError(
                f"{type(self.optimizer).__name__} compares losses within a step, and "
                f"under {method.refresh!r} that of the prior is cached; pass refresh=Exact()"
            )

    def update(self, x: Tensor, y: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Update by one batch; the sums are of loss, energy, and labels predicted right."""
        try:
            if self.needs_closure:
                loss, energy, correct = self._step_with_closure(x, y, size)
            else:
                loss, energy, correct = self.compute_gradients(x, y, size)
                self.optimizer.step()
        except SpectrumError as error:
            raise self.diverged(str(error), self.step, x) from error
        if self.hyper_optimizer is not None:
            self.hyper_optimizer.step()
        return loss, torch.stack([loss * size, energy * size, correct])

    def _step_with_closure(self, x: Tensor, y: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Let an optimiser such as LBFGS compute gradients as often as it needs them."""
        values: list[tuple[Tensor, Tensor, Tensor]] = []

        def closure() -> Tensor:
            values.append(self.compute_gradients(x, y, size))
            return values[-1][0]

        self.optimizer.step(closure)  # type: ignore[arg-type]  # torch expects a float
        return values[0]  # those before the update

    def compute_gradients(self, x: Tensor, y: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the gradients of the loss, clipped if asked for.

        Args:
            x: Inputs `(N, ...)`.
            y: Labels `(N,)`.
            size: The number of examples in the whole batch, of which another process may have a
                part.

        Returns:
            The loss per example, the energy, and the number of labels predicted right, all 0-d.
        """
        self.optimizer.zero_grad()
        if self.hyper_optimizer is not None:
            self.hyper_optimizer.zero_grad()
        nll, correct = self.score(x, y, size)
        nll.backward()
        energy = self.energy.backward(1 / self.num_data, epoch=self.epoch, scaler=None)
        if self.method.clip is not None:
            nn.utils.clip_grad_norm_(self.weights, self.method.clip)
        return nll.detach() + energy.to(nll.device) / self.num_data, energy, correct

    def score(self, x: Tensor, y: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Return the mean negative log likelihood of a batch, and how many labels are right."""
        logits = self.net(x)
        return self.likelihood(logits, y), (logits.detach().argmax(1) == y).sum()

    def metrics(self, means: list[float]) -> dict[str, float]:
        """Name the means: loss, train_nll, energy and train_accuracy."""
        loss, energy, accuracy = means
        return {
            "loss": loss,
            "train_nll": loss - energy / self.num_data,
            "energy": energy,
            "train_accuracy": accuracy,
        }

    def validate(self) -> tuple[float, float]:
        """Return NLL and accuracy of the network on the validation data."""
        assert self.problem.validation is not None
        nll, correct, count = score_sums(self.net, self.problem.validation)
        return nll / count, correct / count

    def fitted(self) -> Fitted:
        """Return the network and its hyperparameters: a point mass."""
        latents = {n: u.detach().cpu().clone() for n, u in self.energy.latents().items()}
        return Fitted(self.net.eval(), latents, self.history)


class DistributedMAPTrainer(MAPTrainer):
    """Training by MAP in several processes, each of which has such a trainer.

    Process 0 alone writes files, shows progress and calls callbacks. An error in one process ends
    all of them.
    """

    replica: Replica

    def __init__(self, method: MAP, problem: Problem) -> None:
        if rank() > 0:
            problem = dataclasses.replace(problem, callbacks=(), progress=False)
        super().__init__(method, problem)

    def run(
        self, folder: RunFolder | None = None, checkpoint: dict[str, Any] | None = None
    ) -> Fitted:
        """Train to the end; all processes return the same result."""
        self.replica = Replica(self.net, self.likelihood)
        self._align()
        return super().run(folder, checkpoint)

    def train_batches(self, bar: TrainingProgress) -> tuple[list[float], Tensor | None]:
        """Update by every batch of the epoch, of which each process has a part."""
        train = self.problem.train
        sums = torch.zeros(3, dtype=torch.float64, device=train.device)
        count, x = 0, None
        for x, y, size in self.replica.batches(train, self.problem.seed, self.epoch):
            loss, of_batch = self.update(x, y, size)
            sums += of_batch.to(sums)
            count += size
            self.after_step(loss, x)
            bar.advance()
        self.replica.raise_failures()
        if x is not None:
            self.check_losses(x)
            self.check_weights(x)
        self._align()
        return (sums / count).tolist(), x

    def compute_gradients(self, x: Tensor, y: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Compute gradients; loss and number of right labels are those of all processes."""
        loss, energy, correct = super().compute_gradients(x, y, size)
        loss, correct = self.replica.combine(loss, correct)
        return loss, energy, correct

    def score(self, x: Tensor, y: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Score this process's part of the batch; see `Replica.nll`."""
        return self.replica.nll(x, y, size)

    def validate(self) -> tuple[float, float]:
        """Return NLL and accuracy on the validation data, of which each process has a part."""
        assert self.problem.validation is not None
        return evaluate_replicas(self.net, self.problem.validation)

    def check_losses(self, x: Tensor) -> None:
        """Raise if a loss is not finite, as it also is where another process has failed."""
        if not all(bool(torch.isfinite(loss)) for loss in self.unchecked_losses):
            self.replica.raise_failures()
        super().check_losses(x)

    def run_step_callbacks(self, x: Tensor) -> None:
        """Show the network to the callbacks; an error ends all processes at the next update."""
        try:
            super().run_step_callbacks(x)
        except Exception as error:
            self.replica.failure = error

    def run_hooks(self, name: Literal["on_start", "on_end"]) -> None:
        """Call one hook of all callbacks, in process 0."""
        run_on_rank0(partial(super().run_hooks, name))

    def should_stop(self, metrics: dict[str, float]) -> bool:
        """Return whether a callback, of which process 0 has all, asks to stop."""
        return run_on_rank0(partial(super().should_stop, metrics))

    def save(self) -> None:
        """Write a checkpoint and the metrics, in process 0."""
        run_on_rank0(super().save)

    def _align(self) -> None:
        """Give all processes the buffers and hyperparameters of process 0."""
        copy_from_rank0([*self.net.buffers(), *self.energy.parameters()])

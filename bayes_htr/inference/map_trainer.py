"""Training by MAP, in one process and in several that each hold the whole network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from bayes_htr.distributed import average_gradients
from bayes_htr.engine import Refresh, SpectralEnergy, bind
from bayes_htr.errors import SpectrumError
from bayes_htr.inference.guides.likelihood import LikelihoodPoint
from bayes_htr.inference.problem import Fitted, Problem, score_sums
from bayes_htr.inference.replica import (
    DistributedTrainer,
    NetworkReplica,
    evaluate_replicas,
)
from bayes_htr.inference.run_folder import RunFolder
from bayes_htr.inference.settings import TrainingSettings
from bayes_htr.inference.trainer import Trainer, trainable_weights
from bayes_htr.models.inputs import Inputs, call, device_of
from bayes_htr.spectra import working_dtype

AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
"""The dtypes of `MAP(amp=)`, by name."""


class MAPSettings(TrainingSettings, Protocol):
    """The settings of `htr.MAP` that training needs."""

    @property
    def refresh(self) -> Refresh:
        """The policy that says when the prior's gradient is computed anew."""

    @property
    def accumulate(self) -> int:
        """The number of batches in an update."""

    @property
    def amp(self) -> Literal["bfloat16", "float16"] | None:
        """The dtype of autocast."""


class MAPTrainer(Trainer):
    """Training by MAP in one process.

    Args:
        method: The settings.
        problem: The model to train, with its data.

    Raises:
        ValueError: There is nothing to train, early stopping has no validation data, or the
            optimiser needs a closure under a policy that holds gradients.
    """

    label: ClassVar[str] = "MAP"
    method: MAPSettings

    def __init__(self, method: MAPSettings, problem: Problem) -> None:
        self.weights = trainable_weights(problem.net)
        self.energy: SpectralEnergy = bind(
            problem.model.priors, problem.net, refresh=method.refresh
        )
        first = self.weights[0]
        self.energy.to(first.device)
        with torch.no_grad():
            for name, u in self.energy.latents().items():
                u.copy_(problem.hyperparameters.get(name, u))
        like = torch.zeros((), dtype=working_dtype(first.dtype), device=first.device)
        self.point = LikelihoodPoint(problem.model.likelihood, problem.hyperparameters, like)
        learnt: dict[str, nn.Module] = {"energy": self.energy}
        if self.point.hyperparameters:
            learnt["likelihood"] = self.point
        hyperparameters = [*self.energy.parameters(), *self.point.parameters()]
        super().__init__(
            method, problem, learnt, self.weights, hyperparameters, accumulate=method.accumulate
        )
        self.amp_dtype = None if method.amp is None else AMP_DTYPES[method.amp]
        if method.amp == "float16":
            self.scaler = GradScaler(first.device.type)
        if self.needs_closure and self.energy.caches:
            raise ValueError(
                f"{type(self.optimizer).__name__} compares losses within a step, and "
                f"under {method.refresh!r} that of the prior is cached; pass refresh=Exact()"
            )
        if self.needs_closure and self.scaler is not None:
            raise ValueError(
                f"{type(self.optimizer).__name__} compares losses within a step, and a GradScaler "
                "takes no closure; pass amp='bfloat16' or leave amp out"
            )

    def update(self, parts: Sequence[tuple[Inputs, Tensor]], size: int) -> tuple[Tensor, Tensor]:
        """Update by one batch or several; the sums are of loss, energy, and score."""
        try:
            if self.needs_closure:
                loss, energy, score = self._step_with_closure(parts, size)
            else:
                loss, energy, score = self.compute_gradients(parts, size)
                self._step(self.optimizer)
        except SpectrumError as error:
            raise self.diverged(str(error), self.step, parts[-1][0]) from error
        if self.hyper_optimizer is not None:
            self._step(self.hyper_optimizer)
        if self.scaler is not None:
            self.scaler.update()
        return loss, torch.stack([loss * size, energy * size, score])

    def _step(self, optimizer: Optimizer) -> None:
        """Take one step of an optimiser; the scaler leaves it out if a gradient has overflowed."""
        if self.scaler is None:
            optimizer.step()
        elif any(p.grad is not None for g in optimizer.param_groups for p in g["params"]):
            self.scaler.step(optimizer)

    def _step_with_closure(
        self, parts: Sequence[tuple[Inputs, Tensor]], size: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Let an optimiser such as LBFGS compute gradients as often as it needs them."""
        values: list[tuple[Tensor, Tensor, Tensor]] = []

        def closure() -> Tensor:
            values.append(self.compute_gradients(parts, size))
            return values[-1][0]

        self.optimizer.step(closure)  # type: ignore[arg-type]  # torch expects a float
        return values[0]  # those before the update

    def compute_gradients(
        self, parts: Sequence[tuple[Inputs, Tensor]], size: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the gradients of the loss, clipped if asked for.

        Args:
            parts: Inputs and labels of each batch of the update.
            size: The number of examples in all batches, of which another process may have a part.

        Returns:
            The loss per example, the energy, and the likelihood's score, all 0-d.
        """
        self.optimizer.zero_grad()
        if self.hyper_optimizer is not None:
            self.hyper_optimizer.zero_grad()
        nlls, scores = [], []
        for x, y in parts:
            nll, score = self.score(x, y, size)
            self._backward(nll)
            nlls.append(nll.detach())
            scores.append(score)
        if self.point.hyperparameters:
            self.share_gradients()
        scale = 1 / self.num_data
        energy = self.energy.backward(scale, epoch=self.epoch, scaler=self.scaler)
        if self.point.hyperparameters:
            own = self.point.energy()
            self._backward(own * scale)
            energy = energy + own.detach().to(energy)
        if self.method.clip is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.weights, self.method.clip)
        total = nlls[0] if len(nlls) == 1 else torch.stack(nlls).sum()
        all_scores = scores[0] if len(scores) == 1 else torch.stack(scores).sum()
        return total + energy.to(total.device) / self.num_data, energy, all_scores

    def _backward(self, loss: Tensor) -> None:
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def share_gradients(self) -> None:
        """Do nothing: with one process there are no gradients to average."""

    def score(self, x: Inputs, y: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Return a batch's summand of the mean negative log likelihood, and its score."""
        nll, score = self.mean_score(x, y)
        return (nll if len(y) == size else nll * (len(y) / size)), score

    def mean_score(self, x: Inputs, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean negative log likelihood of a batch, and the sum of its scores."""
        if self.amp_dtype is None:
            outputs = call(self.net, x)
        else:
            with torch.autocast(device_of(x).type, self.amp_dtype):
                outputs = call(self.net, x)
            outputs = outputs.float()
        return self.likelihood(outputs, y, self.point.values()), self.likelihood.score(outputs, y)

    def metrics(self, means: list[float]) -> dict[str, float]:
        """Name the means: loss, train_nll, energy, and the score, such as train_accuracy."""
        loss, energy, score = means
        return {
            "loss": loss,
            "train_nll": loss - energy / self.num_data,
            "energy": energy,
            **self.named_score("train", score),
        }

    def validate(self) -> tuple[float, float]:
        """Return NLL and score of the network on the validation data."""
        assert self.problem.validation is not None
        values = {name: value.detach() for name, value in self.point.values().items()}
        nll, score, count = score_sums(self.net, self.problem.validation, self.likelihood, values)
        return nll / count, score / count

    def fitted(self) -> Fitted:
        """Return the network and its hyperparameters: a point mass."""
        own = self.energy.latents() | self.point.latents()
        latents = {n: u.detach().cpu().clone() for n, u in own.items()}
        return Fitted(self.net.eval(), latents, self.history)


class DistributedMAPTrainer(MAPTrainer, DistributedTrainer):
    """Training by MAP in several processes, each of which has such a trainer."""

    replica: NetworkReplica

    def run(
        self, folder: RunFolder | None = None, checkpoint: dict[str, Any] | None = None
    ) -> Fitted:
        """Train to the end; all processes return the same result."""
        self.replica = NetworkReplica(self.net, self.mean_score)
        return super().run(folder, checkpoint)

    def start_epoch(self, seed: int) -> None:
        """Seed the global generators, from which the network draws."""
        torch.manual_seed(seed)

    def aligned(self) -> list[Tensor]:
        """Return the tensors that process 0 gives to all: buffers and hyperparameters."""
        return [*self.net.buffers(), *self.energy.parameters(), *self.point.parameters()]

    def compute_gradients(
        self, parts: Sequence[tuple[Inputs, Tensor]], size: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute gradients; loss and score are those of all processes."""
        loss, energy, score = super().compute_gradients(parts, size)
        loss, score = self.replica.combine(loss, score)
        return loss, energy, score

    def share_gradients(self) -> None:
        """Average the likelihood's hyperparameter gradients, which the replica does not hold."""
        average_gradients(self.point.parameters())

    def score(self, x: Inputs, y: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Score this process's part of the batch; see `NetworkReplica.nll`."""
        return self.replica.nll(x, y, size)

    def validate(self) -> tuple[float, float]:
        """Return NLL and score on the validation data, of which each process has a part."""
        assert self.problem.validation is not None
        values = {name: value.detach() for name, value in self.point.values().items()}
        return evaluate_replicas(
            self.problem.validation,
            lambda parts: score_sums(self.net, parts, self.likelihood, values),
        )

"""What every inference method takes and returns: problems, methods, callbacks, and fits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bayes_htr._torch import evaluation_mode, isolated_randomness
from bayes_htr.inference.data import Batches
from bayes_htr.inference.guides.base import Guide
from bayes_htr.inference.run_folder import RunFolder
from bayes_htr.models import BayesianClassifier


@dataclass(frozen=True)
class EpochEvent:
    """What a callback is given after every epoch.

    Attributes:
        epoch: The number of epochs done, from 1.
        metrics: The epoch's metrics, as the run folder has them.
        network: The network as it is now; callbacks must not change it.
    """

    epoch: int
    metrics: dict[str, float]
    network: nn.Module


Callback = Callable[[EpochEvent], Any]
"""A callable that is called after every epoch; if it returns `True`, training ends."""


@dataclass(frozen=True)
class StepEvent:
    """What a `StepCallback` is given.

    Attributes:
        step: The number of updates done, from 0.
        epoch: The same in epochs, with a fraction; `None` where it is not known.
        network: The network as it is now, under SVI at the guide's centre; callbacks must not
            change it.
    """

    step: int
    epoch: float | None
    network: nn.Module


class StepCallback(ABC):
    """A callback that also sees the start, chosen steps, and the end of a run.

    A step that is not due costs one call of `is_due`.
    """

    def __call__(self, event: EpochEvent) -> Any:
        """Do nothing after an epoch; a subclass may do more."""
        return None

    @abstractmethod
    def is_due(self, step: int) -> bool:
        """Return whether `on_step` is to be called after this many updates."""

    @abstractmethod
    def on_start(self, event: StepEvent) -> None:
        """Act before the first update; a resumed run tells the updates done before."""

    @abstractmethod
    def on_step(self, event: StepEvent) -> None:
        """Act after an update that is due."""

    @abstractmethod
    def on_end(self, event: StepEvent) -> None:
        """Act once after the last update, before early stopping restores the best weights."""


@dataclass(frozen=True)
class Problem:
    """A model, its data, and how long to train.

    Attributes:
        model: The model; its network is not touched.
        net: The copy of the network to train, on its device.
        train: The training batches.
        validation: The validation batches, if any.
        epochs: The number of epochs in all, those before a resumed run included.
        seed: The seed of the global generators during the run.
        callbacks: Callables that are called after every epoch.
        progress: Whether to show a progress bar; `None` shows it on a terminal only.
        hyperparameters: Initial values of hyperparameters by name, in unconstrained coordinates.
    """

    model: BayesianClassifier
    net: nn.Module
    train: Batches
    validation: Batches | None
    epochs: int
    seed: int
    callbacks: Sequence[Callback] = ()
    progress: bool | None = None
    hyperparameters: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Fitted:
    """The result of a method.

    Attributes:
        net: The trained network.
        hyperparameters: The hyperparameters by name, in unconstrained coordinates.
        history: The metrics by epoch.
        guide: The posterior over weights; `None` for a point mass at the network.
    """

    net: nn.Module
    hyperparameters: dict[str, Tensor]
    history: list[dict[str, float]]
    guide: Guide | None = None


class Run(Protocol):
    """A run that is ready to start."""

    def run(
        self, folder: RunFolder | None = None, checkpoint: dict[str, Any] | None = None
    ) -> Fitted:
        """Train the problem's network in place.

        Args:
            folder: The run folder for checkpoints, if any.
            checkpoint: The state from which to resume, if any.
        """
        ...


class Method(Protocol):
    """An inference method: a value with its settings."""

    def describe(self) -> dict[str, Any]:
        """Return the settings as plain data, for the run folder."""
        ...

    def prepare(self, problem: Problem) -> Run:
        """Build all that training needs, and raise before anything is written if that fails."""
        ...


def score_sums(
    net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[float, float, float]:
    """Sum negative log likelihood (nats) and correct labels over batches, and count the examples.

    The network is in evaluation mode meanwhile, and the global random state is left as it was.
    """
    nll = correct = count = 0.0
    with evaluation_mode(net), torch.no_grad(), isolated_randomness():
        for x, y in batches:
            logits = net(x)
            nll += float(nn.functional.cross_entropy(logits, y, reduction="sum"))
            correct += float((logits.argmax(1) == y).sum())
            count += len(y)
    return nll, correct, count

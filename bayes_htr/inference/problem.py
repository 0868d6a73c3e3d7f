"""What every inference method is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bayes_htr._torch import evaluation_mode, isolated_randomness
from bayes_htr.inference.callbacks import Callback
from bayes_htr.inference.data import Batches
from bayes_htr.inference.distributed import together
from bayes_htr.inference.guides.base import Guide
from bayes_htr.inference.run_folder import RunFolder
from bayes_htr.models import BayesianClassifier
from bayes_htr.processes import all_sum


@dataclass(frozen=True)
class Problem:
    """A model, its data, and how long to train.

    Attributes:
        model: The model; its network is not touched.
        net: The copy to train, on its device.
        train: The training batches.
        validation: The validation batches, if any.
        epochs: Epochs in all, those of a resumed run included.
        seed: Of the global generators during the run.
        folder: Where checkpoints go, if anywhere.
        checkpoint: The state to go on from, if any.
        callbacks: Called after every epoch.
        progress: Whether a bar is shown; `None` for on a terminal.
        hyperparameters: Where hyperparameters start, by name, unconstrained.
    """

    model: BayesianClassifier
    net: nn.Module
    train: Batches
    validation: Batches | None
    epochs: int
    seed: int
    folder: RunFolder | None = None
    checkpoint: dict[str, Any] | None = None
    callbacks: Sequence[Callback] = ()
    progress: bool | None = None
    hyperparameters: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Fitted:
    """What a method found.

    Attributes:
        net: The trained network.
        hyperparameters: Unconstrained coordinates by name.
        history: Metrics by epoch.
        guide: The posterior over weights; `None` for a point mass at the network.
    """

    net: nn.Module
    hyperparameters: dict[str, Tensor]
    history: list[dict[str, float]]
    guide: Guide | None = None


class Method(Protocol):
    """An inference method: a value with its settings."""

    def describe(self) -> dict[str, Any]:
        """The settings as plain data, for the run folder."""
        ...

    def check(self, problem: Problem) -> None:
        """Raise before anything is written if the problem lacks what the method needs."""
        ...

    def run(self, problem: Problem) -> Fitted:
        """Train `problem.net` in place."""
        ...


def evaluate_batches(net: nn.Module, batches: Batches) -> tuple[float, float]:
    """Mean negative log likelihood (nats) and accuracy of a network, in evaluation mode.

    Several processes take their shares of the batches, and all get the result.
    """
    nll = correct = 0.0
    count = 0
    # Measuring does not change the training.
    with together(), evaluation_mode(net), torch.no_grad(), isolated_randomness():
        for x, y, _ in batches.shares(seed=0):
            if len(y) == 0:
                continue
            logits = net(x)
            nll += float(nn.functional.cross_entropy(logits, y, reduction="sum"))
            correct += float((logits.argmax(1) == y).sum())
            count += len(y)
    sums = torch.tensor([nll, correct, count], dtype=torch.float64)
    nll, correct, total = all_sum(sums).tolist()
    return nll / total, correct / total

"""What a method of a study is: its trials, and how it fits a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

import bayes_htr as htr
from benchmarks.common.packages import Package
from benchmarks.study.cells import Base, Pair

Numbers = Mapping[str, float]
"""The numbers of a trial, by name."""
PEER = "peer"
"""The family of the methods of others."""
LAYERS = "layers"
"""The family of the posteriors that are heavy-tailed in some layers only."""
ONLY_IF_NAMED = (PEER, LAYERS)
"""The families that a study leaves out unless they are named."""


@dataclass(frozen=True)
class Setting:
    """What a method needs beside the numbers of a trial.

    Attributes:
        net: The network before training.
        num_data: The number of training images.
        base: How every method of the cell trains.
        ends: The penalties of `ENDS` at the end of plain training.
    """

    net: nn.Module
    num_data: int
    base: Base
    ends: Mapping[str, float]


def flat(numbers: Numbers, setting: Setting) -> htr.Priors:
    """Return no priors."""
    return htr.Priors({})


def plain(numbers: Numbers, setting: Setting) -> htr.MAP:
    """MAP, trained like plain training of the cell."""
    base = setting.base
    return htr.MAP(lr=base.lr, scheduler="cosine" if base.schedule == "cosine" else None)


@dataclass(frozen=True)
class Task:
    """What a fit is given that does not go through `htr.fit`.

    Attributes:
        net: The network before training, on the CPU. The fit may change it.
        data: The training images and their labels, on the device of training.
        base: How every method of the cell trains.
        batch_size: Examples per step.
        numbers: The numbers of the trial.
        seed: The seed of everything that is random.
    """

    net: nn.Module
    data: Pair
    base: Base
    batch_size: int
    numbers: Numbers
    seed: int


class Fitted(Protocol):
    """A trained network or posterior, such as `htr.Posterior`."""

    def predict(self, x: Tensor, samples: int) -> htr.Prediction:
        """Return the predictive distribution of images `(N, C, H, W)`, the same at each call.

        Args:
            x: The images.
            samples: How many draws are averaged, where there are draws.
        """


@dataclass(frozen=True)
class Method:
    """A method of a study.

    Attributes:
        label: The name of the method in tables.
        family: The kind of method. One method of each family in `Study.entrants` is compared first.
        trials: The numbers that are tried; a single trial is not tuned.
        priors: Makes priors from the numbers of a trial.
        inference: Makes the inference method from them.
        members: The number of fits of a tested run, each with a seed of its own, whose predictions
            are averaged. A trial is a single fit.
        start: The method whose tuned fit is the starting point, if there is one.
        fit: Fits in another way than `htr.fit`, which leaves priors and inference unused.
        package: The optional package that the fit needs.
    """

    label: str
    family: str
    trials: tuple[Numbers, ...]
    priors: Callable[[Numbers, Setting], htr.Priors] = flat
    inference: Callable[[Numbers, Setting], htr.MAP | htr.SVI] = plain
    members: int = 1
    start: str | None = None
    fit: Callable[[Task], Fitted] | None = None
    package: Package | None = None

    @property
    def tuned(self) -> bool:
        """Whether validation data choose among several trials."""
        return len(self.trials) > 1

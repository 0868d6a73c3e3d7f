"""What the benchmarks share: how a network is trained, with a prior and without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bayes_htr.engine import Drift, Every, Exact, Refresh, bind
from bayes_htr.experiments import PRIORS, named_priors
from bayes_htr.priors import Priors
from benchmarks.cost.naive import NaiveEnergy
from benchmarks.cost.training import Entry, Run, WithPrior, Workload, plain

REFRESHES = ("drift", "every", "exact")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def refresh_policy(name: str, *, tol: float, check_every: int, every: int) -> Refresh:
    """The policy that the command line names.

    Args:
        name: One of `REFRESHES`.
        tol: Of `Drift`.
        check_every: Of `Drift`.
        every: Of `Every`.
    """
    if name == "drift":
        return Drift(tol=tol, check_every=check_every)
    return Every(every) if name == "every" else Exact()


@dataclass(frozen=True)
class Training:
    """How every network is trained.

    Attributes:
        batch_size: Examples per step.
        lr: Learning rate of SGD.
        momentum: Of SGD.
        seed: Of weights and order.
        device: Where.
        dtype: A key of `DTYPES`.
        refresh: When the prior's gradients are computed anew.
        entry: How the prior enters a step.
        strength: The power of the prior; `None` for what `bayes-htr fit` gives it.
    """

    batch_size: int = 128
    lr: float = 0.05
    momentum: float = 0.9
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    refresh: Refresh = Drift()  # noqa: RUF009  (a frozen value)
    entry: Entry = "backward"
    strength: float | None = 1.0

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain data."""
        return {**vars(self), "refresh": self.refresh.to_dict()}

    def workload(self, build: Callable[[int], nn.Module], x: Tensor, y: Tensor) -> Workload:
        """A network on data, trained in this way."""
        return Workload(
            build,
            x,
            y,
            batch_size=self.batch_size,
            lr=self.lr,
            momentum=self.momentum,
            seed=self.seed,
            device=torch.device(self.device),
            dtype=DTYPES[self.dtype],
        )


@dataclass(frozen=True)
class Case:
    """A workload under a prior: the runs that are compared.

    Attributes:
        workload: The network and its data.
        prior: A key of `naive.ENERGIES`.
        training: How it is trained.
    """

    workload: Workload
    prior: str
    training: Training

    @property
    def scale(self) -> float:
        """What an energy is multiplied by in the loss."""
        return 1 / self.workload.num_data

    @property
    def strength(self) -> float:
        """The power of the prior."""
        given = self.training.strength
        return PRIORS[self.prior].own(self.workload.num_data) if given is None else given

    def priors(self) -> Priors:
        """The priors at the strength of the settings."""
        num_data = self.workload.num_data
        return named_priors(self.prior, strength=self.strength, num_data=num_data)

    def seeded(self, seed: int) -> Case:
        """The same with another seed."""
        return Case(self.workload.seeded(seed), self.prior, self.training)

    def with_prior(self, net: nn.Module, refresh: Refresh | None = None) -> WithPrior:
        """The line of training under the prior; `refresh` instead of the settings'."""
        energy = bind(
            self.priors(), net, refresh=self.training.refresh if refresh is None else refresh
        )
        return WithPrior(energy, self.scale, self.training.entry)

    def naive_energy(self, net: nn.Module, dtype: torch.dtype = torch.float32) -> NaiveEnergy:
        """The same prior by autograd."""
        return NaiveEnergy(self.prior, self.priors(), net, dtype)

    def plain_run(self) -> Run:
        """A run without a prior."""
        return Run(self.workload, plain)

    def prior_run(self, refresh: Refresh | None = None) -> PriorRun:
        """A run under the prior."""
        return PriorRun(self, refresh)

    def naive_run(self) -> Run:
        """A run under the naive energy."""
        return Run(self.workload, lambda net: self.naive_energy(net).line(self.scale))


class PriorRun(Run):
    """A run under the prior of a case, which knows its line.

    Args:
        case: The case.
        refresh: Instead of the settings' policy.
    """

    def __init__(self, case: Case, refresh: Refresh | None = None) -> None:
        super().__init__(case.workload, lambda net: case.with_prior(net, refresh))
        assert isinstance(self.backward, WithPrior)
        self.prior: WithPrior = self.backward

"""The training loop that is measured: plain, and with a prior, which differs by one line.

The loop is what anyone would write by hand: a batch by index from tensors, `zero_grad`, forward,
cross-entropy, backward, step. The one line is `Run.backward`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bayes_htr as htr
from bayes_htr.engine import Refresh
from bayes_htr.experiments import PRIORS, named_priors
from benchmarks.common.running import from_options, positive
from benchmarks.cost.naive import ENERGIES, NaiveEnergy

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Backward = Callable[[Tensor], None]
"""Takes the loss of a batch and leaves gradients in `.grad`."""

Entry = Literal["backward", "loss"]
"""How a prior enters a step: by `energy.backward`, or as a summand of the loss."""


@dataclass(frozen=True)
class Training:
    """How every network is trained.

    Attributes:
        batch_size: Examples per step.
        lr: Learning rate of SGD.
        momentum: Momentum of SGD.
        seed: The seed of the weights and of the order of the data.
        device: Where networks are trained.
        dtype: The type of the forward pass, a key of `DTYPES`; other than float32 by autocast.
        refresh: When the gradients of the prior are computed anew.
        entry: How the prior enters a step.
        strength: The power of the prior; `None` for that of `bayes-htr fit`.
    """

    batch_size: int = 128
    lr: float = 0.05
    momentum: float = 0.9
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    refresh: Refresh = htr.Drift()  # noqa: RUF009  (a frozen value)
    entry: Entry = "backward"
    strength: float | None = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return {**vars(self), "refresh": self.refresh.to_dict()}


@dataclass(frozen=True, eq=False)
class Workload:
    """A network, its data, and how it is trained.

    Attributes:
        build: Builds the network from a seed.
        x: Inputs `(N, ...)`.
        y: Labels `(N,)`.
        training: How it is trained.

    Raises:
        ValueError: A batch has more examples than there are.
    """

    build: Callable[[int], nn.Module]
    x: Tensor
    y: Tensor
    training: Training

    def __post_init__(self) -> None:
        if not 1 <= self.training.batch_size <= len(self.x):
            raise ValueError(
                f"batch_size={self.training.batch_size} must be from 1 to the number of examples, "
                f"{len(self.x)}"
            )

    @property
    def num_data(self) -> int:
        """The number of examples."""
        return len(self.x)

    @property
    def device(self) -> torch.device:
        """Where the network is trained."""
        return torch.device(self.training.device)

    def network(self) -> nn.Module:
        """Return a fresh network in training mode, the same at every call."""
        return self.build(self.training.seed).to(self.device).train()

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of one size without end, in an order that the seed decides."""
        generator = torch.Generator().manual_seed(self.training.seed)
        x, y, size = self.x.to(self.device), self.y.to(self.device), self.training.batch_size
        while True:
            order = torch.randperm(len(x), generator=generator).to(self.device)
            for start in range(0, len(x) - size + 1, size):
                chosen = order[start : start + size]
                yield x[chosen], y[chosen]

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of a forward pass."""
        dtype = DTYPES[self.training.dtype]
        if dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=dtype)

    def plain_run(self) -> Run:
        """Return a run without a prior."""
        return Run(self, lambda net: Tensor.backward)


def random_data(count: int, shape: Sequence[int], classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random inputs `(count, *shape)` and labels `(count,)`: steps take as long as on real data."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, *shape, generator=generator)
    return x, torch.randint(classes, (count,), generator=generator)


@dataclass(frozen=True, eq=False)
class Case(Workload):
    """A workload under a prior: the runs that are compared.

    Attributes:
        prior: A key of `naive.ENERGIES`.
    """

    prior: str

    @property
    def scale(self) -> float:
        """The factor of an energy in the loss."""
        return 1 / self.num_data

    @property
    def strength(self) -> float:
        """The power of the prior."""
        given = self.training.strength
        return PRIORS[self.prior].own(self.num_data) if given is None else given

    def seeded(self, seed: int) -> Case:
        """Return the same with another seed."""
        return replace(self, training=replace(self.training, seed=seed))

    def priors(self) -> htr.Priors:
        """Return the priors at the strength of the settings."""
        return named_priors(self.prior, strength=self.strength, num_data=self.num_data)

    def with_prior(self, net: nn.Module, refresh: Refresh | None = None) -> WithPrior:
        """The line of training under the prior, with `refresh` in place of the own policy."""
        energy = htr.bind(self.priors(), net, refresh=refresh or self.training.refresh)
        return WithPrior(energy, self.scale, self.training.entry)

    def naive_energy(self, net: nn.Module, dtype: torch.dtype = torch.float32) -> NaiveEnergy:
        """Return the energy of the same prior by autograd."""
        return NaiveEnergy(self.prior, self.priors(), net, dtype)

    def prior_run(self, refresh: Refresh | None = None) -> PriorRun:
        """Return a run under the prior, with `refresh` in place of the own policy."""
        return PriorRun(self, refresh)

    def naive_run(self) -> Run:
        """Return a run under the naive energy."""
        return Run(self, lambda net: self.naive_energy(net).line(self.scale))


class Run:
    """A run of the loop on a fresh network.

    Args:
        workload: What is trained.
        backward: Makes the line that runs differ by, given the network.

    Attributes:
        net: The network.
        backward: The line.
    """

    def __init__(self, workload: Workload, backward: Callable[[nn.Module], Backward]) -> None:
        self.net = workload.network()
        self.backward = backward(self.net)
        self._autocast = workload.autocast
        self._batches = workload.batches()
        self._optimizer = torch.optim.SGD(
            self.net.parameters(), lr=workload.training.lr, momentum=workload.training.momentum
        )

    def steps(self, count: int) -> None:
        """Take `count` steps."""
        for _ in range(count):
            x, y = next(self._batches)
            self._optimizer.zero_grad()
            with self._autocast():
                loss = F.cross_entropy(self.net(x), y)
            self.backward(loss)
            self._optimizer.step()


class PriorRun(Run):
    """A run under the prior of a case.

    Args:
        case: What is trained.
        refresh: In place of the policy of the case.

    Attributes:
        prior: The line that adds the prior.
    """

    def __init__(self, case: Case, refresh: Refresh | None = None) -> None:
        super().__init__(case, lambda net: case.with_prior(net, refresh))
        assert isinstance(self.backward, WithPrior)
        self.prior: WithPrior = self.backward


@dataclass(eq=False)
class WithPrior:
    """The line of training under a prior.

    Attributes:
        energy: The energy of the network under its prior.
        scale: The factor of the energy in the loss, `1 / num_data`.
        entry: How it enters.
    """

    energy: htr.SpectralEnergy
    scale: float
    entry: Entry = "backward"

    def __call__(self, loss: Tensor) -> None:
        """Compute the gradients of the loss and of the prior."""
        if self.entry == "loss":
            (loss + self.energy() * self.scale).backward()
        else:
            loss.backward()
            self.energy.backward(self.scale)

    def alone(self) -> None:
        """Add the gradients of the prior alone."""
        if self.entry == "loss":
            (self.energy() * self.scale).backward()
        else:
            self.energy.backward(self.scale)


# Options of the command line


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add the options of `Training`, the priors, and the steps of warm-up."""
    default = Training()
    drift = htr.Drift()
    add = parser.add_argument
    add("--priors", nargs="+", choices=ENERGIES, default=list(ENERGIES), help="the priors")
    policies = ("drift", "every", "exact")
    add("--refresh", choices=policies, default="drift", help="when gradients are computed anew")
    add("--tol", type=float, default=drift.tol, help="relative drift allowed, for --refresh drift")
    add("--check-every", type=positive, default=drift.check_every, help="steps between its checks")
    add("--every", type=positive, default=10, help="steps from one to the next, for every")
    add(
        "--entry",
        choices=("backward", "loss"),
        default=default.entry,
        help="the prior enters by energy.backward(1 / num_data), or as a summand of the loss",
    )
    add(
        "--strength",
        type=lambda text: None if text == "named" else float(text),
        default=default.strength,
        help="power of the prior: a number, or `named` for what bayes-htr fit gives it",
    )
    add("--batch-size", type=positive, default=default.batch_size, help="examples per step")
    add("--lr", type=float, default=default.lr, help="learning rate of SGD, momentum 0.9")
    add("--seed", type=int, default=default.seed, help="seed of weights and of the order of data")
    add("--warmup", type=positive, default=5, help="steps of runs thrown away before timing")
    add("--device", default=default.device, help="cpu, cuda, cuda:1, ...")
    add(
        "--dtype",
        choices=DTYPES,
        default=default.dtype,
        help="type of the forward pass, by autocast",
    )


def training_of(args: argparse.Namespace) -> Training:
    """Return the training that the options ask for."""
    policies: dict[str, Callable[[], Refresh]] = {
        "drift": lambda: htr.Drift(tol=args.tol, check_every=args.check_every),
        "every": lambda: htr.Every(args.every),
        "exact": htr.Exact,
    }
    return from_options(Training, args, refresh=policies[args.refresh]())

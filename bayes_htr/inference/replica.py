"""The part that one process has in a training run of several processes.

A single process uses nothing of this module. `docs/distributed.md` says what several processes
mean for data, randomness and errors.
"""

from __future__ import annotations

import dataclasses
import operator
import random
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

from bayes_htr._terminal import TrainingProgress
from bayes_htr.distributed import (
    all_sum,
    copy_from_rank0,
    fail_together,
    local_slice,
    raise_failures,
    rank,
    run_on_rank0,
    synchronised_rng,
    world_size,
)
from bayes_htr.inference.data import Batches
from bayes_htr.inference.problem import Fitted, Problem
from bayes_htr.inference.run_folder import RunFolder
from bayes_htr.inference.trainer import Trainer, grouped
from bayes_htr.models.inputs import Inputs, call, map_inputs

Score = Callable[[Inputs, Tensor], tuple[Tensor, Tensor]]


class Replica:
    """The part that one process has in training.

    An error of the data or of the network in one process does not end that process at once, because
    the others would wait for it. The loss of that process is NaN from then on, which all processes
    see, and `raise_failures` then ends them all.

    Attributes:
        failure: The error that has occurred in this process, if any.
    """

    def __init__(self) -> None:
        self.failure: Exception | None = None

    def batches(
        self, batches: Batches, seed: int, epoch: int
    ) -> Iterator[tuple[Inputs, Tensor, int]]:
        """Iterate over this process's parts of an epoch's batches; after an error they are empty.

        Args:
            batches: The training data.
            seed: The seed of the run.
            epoch: The epoch, from 0.

        Yields:
            Inputs and labels of this process's part, and the number of examples in the batch.
        """
        done = 0
        try:
            for part in local_batches(batches, _stream_seed(seed, epoch, 0), epoch):
                yield part
                done += 1
        except Exception as error:
            self.failure = error
            nothing = torch.zeros(0, dtype=torch.int64, device=batches.device)
            for _ in range(done, len(batches)):
                yield nothing, nothing, 1

    def combine(self, loss: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """Average a loss and sum a score over processes; NaN if a process has failed."""
        if self.failure is not None:
            loss = torch.full_like(loss, torch.nan)
        both = all_sum(torch.stack([loss.detach().double(), score.double()]))
        return both[0] / world_size(), both[1]

    def raise_failures(self) -> None:
        """Raise an error in all processes if one of them has failed."""
        raise_failures(self.failure)


class NetworkReplica(Replica):
    """One process's copy of a network, whose gradients `DistributedDataParallel` averages.

    Args:
        net: The network; all processes start with the weights of process 0.
        score: A callable that takes inputs and labels to their mean negative log likelihood under
            the network, and to the sum of their scores.
    """

    def __init__(self, net: nn.Module, score: Score) -> None:
        super().__init__()
        self._weights = [p for p in net.parameters() if p.requires_grad]
        self._parallel = DistributedDataParallel(_LocalScore(self, net, score))

    def nll(self, x: Inputs, y: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Evaluate the likelihood of this process's part of a batch.

        Args:
            x: The inputs of this part, perhaps none.
            y: The labels of these inputs.
            size: The number of examples in the whole batch.

        Returns:
            This process's summand of the negative log likelihood, with a gradient for every
            weight, and the sum of the scores. The mean of the summands over processes is the mean
            over the batch.
        """
        nll = score = self._weights[0].new_zeros(())
        scored = self._parallel(x, y)
        if scored is not None:
            nll, score = scored[0] * (len(y) * world_size() / size), scored[1]
        touched: Tensor = _TouchAll.apply(nll, *self._weights)
        return touched, score


class DistributedTrainer(Trainer):
    """The base class of the trainers of several processes, of which each process has one.

    Process 0 alone writes files, shows progress and calls callbacks. An error in one process ends
    all of them.
    """

    replica: Replica

    @abstractmethod
    def start_epoch(self, seed: int) -> None:
        """Seed what this process draws for itself, such as dropout, for an epoch."""

    @abstractmethod
    def aligned(self) -> list[Tensor]:
        """Return the tensors that all processes take over from process 0.

        They do so before and after an epoch.
        """

    def run(
        self, folder: RunFolder | None = None, checkpoint: dict[str, Any] | None = None
    ) -> Fitted:
        """Train to the end; all processes return the same result."""
        copy_from_rank0(self.aligned())
        return super().run(folder, checkpoint)

    def train_batches(self, bar: TrainingProgress) -> tuple[list[float], Inputs | None]:
        """Update by every batch of the epoch, of which each process has a part.

        What a process draws for itself is seeded anew for the epoch: a stream over all epochs
        would not survive a change of the number of processes.
        """
        train, seed = self.problem.train, self.problem.seed
        self.start_epoch(_stream_seed(seed, self.epoch, rank() + 1))
        if self.epoch:
            self.follow_priors(self.epoch)
        sums = torch.zeros(3, dtype=torch.float64, device=train.device)
        count, x = 0, None
        for group in grouped(self.replica.batches(train, seed, self.epoch), self.accumulate):
            size, x = sum(of_all for *_, of_all in group), group[-1][0]
            loss, of_batch = self.update([(x, y) for x, y, _ in group], size)
            sums += of_batch.to(sums)
            count += size
            self.after_step(loss, x)
            bar.advance(len(group))
        self.replica.raise_failures()
        if x is not None:
            self.check_losses(x)
            self.check_weights(x)
            self.update_network(x)
        copy_from_rank0(self.aligned())
        return (sums / count).tolist(), x

    def check_losses(self, x: Inputs) -> None:
        """Raise if a loss is not finite, as it also is where another process has failed."""
        if not all(bool(torch.isfinite(loss)) for loss in self.unchecked_losses):
            self.replica.raise_failures()
        super().check_losses(x)

    def run_step_callbacks(self, x: Inputs) -> None:
        """Show the network to the callbacks; an error ends all processes at the next update."""
        try:
            super().run_step_callbacks(x)
        except Exception as error:
            self.replica.failure = error

    def run_hooks(self, name: Literal["on_start", "on_end"]) -> None:
        """Call one hook of all callbacks, in process 0."""
        run_on_rank0(partial(super().run_hooks, name))

    def should_stop(self, metrics: dict[str, float]) -> bool:
        """Return whether a callback asks to stop; process 0 has all callbacks."""
        return run_on_rank0(partial(super().should_stop, metrics))

    def save(self) -> None:
        """Write a checkpoint and the metrics, in process 0."""
        run_on_rank0(super().save)


def of_one_process(problem: Problem) -> Problem:
    """Return the problem as one of several processes has it: only process 0 has callbacks."""
    if rank() == 0:
        return problem
    return dataclasses.replace(problem, callbacks=(), progress=False)


def local_batches(
    batches: Batches, seed: int, epoch: int = 0
) -> Iterator[tuple[Inputs, Tensor, int]]:
    """Iterate over this process's part of each batch, with the size of the whole batch.

    Each process takes a contiguous part, which may be empty. A loader with a `DistributedSampler`
    has divided the examples already: each process takes all of its own batch, and the whole batch
    consists of those of all processes, which have the same number of examples.

    Args:
        batches: The data.
        seed: The seed of the loader's draws from the global generator.
        epoch: The epoch, from 0, on which the order of a `DistributedSampler` depends.
    """
    batches.set_epoch(epoch)
    is_dealt = isinstance(batches.sampler, DistributedSampler)
    for batch in synchronised_rng(batches.raw(), seed):
        x, y = batches.check_batch(batch)
        part = slice(None) if is_dealt else local_slice(len(y))
        size = len(y) * (world_size() if is_dealt else 1)
        own = map_inputs(operator.itemgetter(part), x)
        yield *batches.place(own, y[part]), size


def evaluate_replicas(
    batches: Batches,
    sums_of: Callable[[Iterable[tuple[Inputs, Tensor]]], tuple[float, float, float]],
    *,
    skip_empty: bool = True,
) -> tuple[float, float]:
    """Evaluate mean negative log likelihood (nats) and mean score, each process on its part.

    All processes return the same values.

    Args:
        batches: The data.
        sums_of: Takes batches to the sums of both and the number of examples, as `score_sums` does.
        skip_empty: Whether a process leaves out batches of which it has no examples.
    """
    with fail_together():
        parts = ((x, y) for x, y, _ in local_batches(batches, seed=0) if len(y) or not skip_empty)
        sums = torch.tensor(sums_of(parts), dtype=torch.float64)
    nll, score, count = all_sum(sums).tolist()
    return nll / count, score / count


class _LocalScore(nn.Module):
    """The likelihood of a part of a batch, as `DistributedDataParallel` wraps it.

    A part without examples has no likelihood, nor has any part after an error; gradients are
    exchanged all the same.
    """

    def __init__(self, replica: Replica, net: nn.Module, score: Score) -> None:
        super().__init__()
        self.replica = replica
        self.net = net
        self.score = score
        self._synchronises = any(isinstance(m, nn.SyncBatchNorm) for m in net.modules())

    def forward(self, x: Inputs, y: Tensor) -> tuple[Tensor, Tensor] | None:
        if self.replica.failure is not None:
            return None
        try:
            if len(y):
                return self.score(x, y)
            if self._synchronises:  # other processes wait for this one in the forward pass
                return call(self.net, x).sum(), y.sum()
        except Exception as error:
            self.replica.failure = error
        return None


class _TouchAll(torch.autograd.Function):
    """A loss as a function of all weights, which has no gradient for those that it does not use.

    `DistributedDataParallel` waits until the backward pass has reached every weight.
    """

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *weights: Tensor) -> Tensor:
        ctx.count = len(weights)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        return grad_output, *([None] * ctx.count)


def _stream_seed(seed: int, epoch: int, stream: int) -> int:
    """Derive the seed of a random stream of one epoch.

    Args:
        seed: The seed of the run.
        epoch: The epoch, from 0.
        stream: 0 for the stream that all processes share, and the rank plus 1 for a process's own.
    """
    return random.Random(f"{seed} {epoch} {stream}").getrandbits(63)

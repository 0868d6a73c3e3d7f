"""One process's copy of a network while several processes train it together.

PyTorch's `DistributedDataParallel` averages the gradients. A single process trains the plain
network and uses nothing of this module. `docs/distributed.md` says what several processes mean for
data, randomness and errors.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

from bayes_htr.distributed import (
    all_sum,
    fail_together,
    local_slice,
    raise_failures,
    rank,
    synchronised_rng,
    world_size,
)
from bayes_htr.inference.data import Batches
from bayes_htr.inference.problem import score_sums
from bayes_htr.models import Likelihood
from bayes_htr.models.inputs import Inputs, call, map_inputs

Score = Callable[[Inputs, Tensor], tuple[Tensor, Tensor]]


class Replica:
    """One process's copy of a network while it is trained.

    An error of the data or of the network in one process does not end that process at once, for
    the others would wait for it. Its loss is NaN from then on, which all processes see, and
    `raise_failures` then ends them all.

    Args:
        net: The network; all processes start with the weights of process 0.
        score: A callable that takes inputs and labels to their mean negative log likelihood under
            the network, and to the sum of their scores.

    Attributes:
        failure: The error that has occurred in this process, if any.
    """

    def __init__(self, net: nn.Module, score: Score) -> None:
        self.failure: Exception | None = None
        self._weights = [p for p in net.parameters() if p.requires_grad]
        self._parallel = DistributedDataParallel(_LocalScore(self, net, score))

    def batches(
        self, batches: Batches, seed: int, epoch: int
    ) -> Iterator[tuple[Inputs, Tensor, int]]:
        """Iterate over this process's parts of an epoch's batches; after an error they are empty.

        This also seeds the global generators, which dropout for example uses, anew for the epoch:
        a stream over all epochs would not survive a change of the number of processes.

        Args:
            batches: The training data.
            seed: The seed of the run.
            epoch: The epoch, from 0.

        Yields:
            Inputs and labels of this process's part, and the number of examples in the batch.
        """
        torch.manual_seed(_stream_seed(seed, epoch, rank() + 1))
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

    def combine(self, loss: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """Average a loss and sum a score over processes; NaN if a process has failed."""
        if self.failure is not None:
            loss = torch.full_like(loss, torch.nan)
        both = all_sum(torch.stack([loss.detach().double(), score.double()]))
        return both[0] / world_size(), both[1]

    def raise_failures(self) -> None:
        """Raise an error in all processes if one of them has failed."""
        raise_failures(self.failure)


def local_batches(
    batches: Batches, seed: int, epoch: int = 0
) -> Iterator[tuple[Inputs, Tensor, int]]:
    """Iterate over this process's part of each batch, with the size of the whole batch.

    Each process takes a contiguous part, which may be empty. A loader with a `DistributedSampler`
    has dealt the examples already: each process takes all of its own batch, and the whole batch
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
    net: nn.Module, batches: Batches, likelihood: Likelihood, values: Mapping[str, Tensor]
) -> tuple[float, float]:
    """Evaluate mean negative log likelihood (nats) and mean score, each process on its part.

    All processes return the same values. The arguments are those of `score_sums`.
    """
    with fail_together():
        parts = ((x, y) for x, y, _ in local_batches(batches, seed=0) if len(y))
        sums = torch.tensor(score_sums(net, parts, likelihood, values), dtype=torch.float64)
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

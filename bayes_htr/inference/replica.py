"""One process's copy of a network while several processes train it together.

PyTorch's `DistributedDataParallel` averages the gradients. A single process trains the plain
network and uses nothing of this module. `docs/distributed.md` says what several processes mean for
data, randomness and errors.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
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


class Replica:
    """One process's copy of a network while it is trained.

    An error of the data or of the network in one process does not end that process at once, for
    the others would wait for it. Its loss is NaN from then on, which all processes see, and
    `raise_failures` then ends them all.

    Args:
        net: The network; all processes start with the weights of process 0.
        likelihood: The likelihood of labels given the network's logits.

    Attributes:
        failure: The error that has occurred in this process, if any.
    """

    def __init__(self, net: nn.Module, likelihood: Likelihood) -> None:
        self.failure: Exception | None = None
        self._weights = [p for p in net.parameters() if p.requires_grad]
        self._parallel = DistributedDataParallel(_LocalScore(self, net, likelihood))

    def batches(
        self, batches: Batches, seed: int, epoch: int
    ) -> Iterator[tuple[Tensor, Tensor, int]]:
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

    def nll(self, x: Tensor, y: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Evaluate the likelihood of this process's part of a batch.

        Args:
            x: The inputs of this part, perhaps none.
            y: Their labels.
            size: The number of examples in the whole batch.

        Returns:
            This process's summand of the negative log likelihood, with a gradient for every
            weight, and the number of labels predicted right. The mean of the summands over
            processes is the mean over the batch.
        """
        nll = correct = self._weights[0].new_zeros(())
        score = self._parallel(x, y)
        if score is not None:
            nll, correct = score[0] * (len(y) * world_size() / size), score[1]
        touched: Tensor = _TouchAll.apply(nll, *self._weights)
        return touched, correct

    def combine(self, loss: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
        """Average a loss and sum a count over processes; NaN if a process has failed."""
        if self.failure is not None:
            loss = torch.full_like(loss, torch.nan)
        both = all_sum(torch.stack([loss.detach().double(), correct.double()]))
        return both[0] / world_size(), both[1]

    def raise_failures(self) -> None:
        """Raise an error in all processes if one of them has failed."""
        raise_failures(self.failure)


def local_batches(
    batches: Batches, seed: int, epoch: int = 0
) -> Iterator[tuple[Tensor, Tensor, int]]:
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
    for batch in synchronised_rng(batches.loader, seed):
        x, y = batches.check_batch(batch)
        part = slice(None) if is_dealt else local_slice(len(y))
        size = len(y) * (world_size() if is_dealt else 1)
        yield *batches.place(x[part], y[part]), size


def evaluate_replicas(net: nn.Module, batches: Batches) -> tuple[float, float]:
    """Evaluate mean negative log likelihood (nats) and accuracy, each process on its part.

    All processes return the same values.
    """
    with fail_together():
        parts = ((x, y) for x, y, _ in local_batches(batches, seed=0) if len(y))
        sums = torch.tensor(score_sums(net, parts), dtype=torch.float64)
    nll, correct, count = all_sum(sums).tolist()
    return nll / count, correct / count


class _LocalScore(nn.Module):
    """The likelihood of a part of a batch, as `DistributedDataParallel` wraps it.

    A part without examples has no likelihood, nor has any part after an error; gradients are
    exchanged all the same.
    """

    def __init__(self, replica: Replica, net: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.replica = replica
        self.net = net
        self.likelihood = likelihood
        self._synchronises = any(isinstance(m, nn.SyncBatchNorm) for m in net.modules())

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor] | None:
        if self.replica.failure is not None:
            return None
        try:
            if len(y):
                logits = self.net(x)
                return self.likelihood(logits, y), (logits.detach().argmax(1) == y).sum()
            if self._synchronises:  # other processes wait for this one in the forward pass
                return self.net(x).sum(), y.sum()
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

"""One process's copy of a network while it is trained, by itself or with others.

Gradients are averaged by PyTorch's `DistributedDataParallel`. Alone, a step is that of the plain
network. `docs/distributed.md` says what follows for data, randomness and errors.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bayes_htr.inference.data import Batches
from bayes_htr.inference.distributed import raise_failures
from bayes_htr.models import Likelihood
from bayes_htr.processes import all_sum, rank, world_size


class Replica:
    """One process's copy of a network while it is trained.

    Errors of the data or of the network in one process do not end it there and then, which would
    leave the others waiting: its loss is NaN from there on, which all see, and `raise_failures`
    then ends them all.

    Args:
        net: The network; copies start as that of process 0.
        likelihood: The likelihood of labels given its logits.
    """

    def __init__(self, net: nn.Module, likelihood: Likelihood) -> None:
        self._share = _Share(net, likelihood)
        self._weights = [p for p in net.parameters() if p.requires_grad]
        self._parallel: DistributedDataParallel | None = None
        if world_size() > 1:
            self._parallel = DistributedDataParallel(self._share)

    def steps(
        self, batches: Batches, seed: int, epoch: int
    ) -> Iterator[tuple[Tensor, Tensor, int]]:
        """This process's shares of an epoch's batches; after an error the rest are empty.

        In several processes it also seeds the global generators, of dropout for example. One
        stream over all epochs would not outlive a change of the number of processes.
        """
        shares = batches.shares(_stream(seed, epoch, of=0), epoch)
        if self._parallel is None:
            yield from shares
            return
        torch.manual_seed(_stream(seed, epoch, of=rank() + 1))
        done = 0
        try:
            for share in shares:
                yield share
                done += 1
        except Exception as error:
            self._share.failure = error
            nothing = torch.zeros(0, dtype=torch.int64, device=batches.device)
            for _ in range(done, len(batches)):
                yield nothing, nothing, 1

    def nll(self, x: Tensor, y: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """The likelihood of this process's share of a batch.

        Args:
            x: The share's inputs, perhaps none.
            y: Its labels.
            size: How many examples the whole batch has.

        Returns:
            Its part of the negative log likelihood, of which the mean over processes is the mean
            over the batch, with a gradient for every weight; and how many labels were right.
        """
        if self._parallel is None:
            return self._share.scored(x, y)
        nll = correct = self._weights[0].new_zeros(())
        found = self._parallel(x, y)
        if found is not None:
            nll, correct = found[0] * (len(y) * world_size() / size), found[1]
        touched: Tensor = _Touch.apply(nll, *self._weights)
        return touched, correct

    def combined(self, loss: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
        """A loss averaged and a count summed over processes; NaN where one has failed."""
        if self._parallel is None:
            return loss, correct
        if self._share.failure is not None:
            loss = torch.full_like(loss, torch.nan)
        both = all_sum(torch.stack([loss.detach().double(), correct.double()]))
        return both[0] / world_size(), both[1]

    def note(self, failure: Exception) -> None:
        """Let an error end all processes together; alone, raise it.

        Raises:
            Exception: The error, where there is one process.
        """
        if self._parallel is None:
            raise failure
        self._share.failure = failure

    def raise_failures(self) -> None:
        """Raise what has failed in a process, in all of them."""
        raise_failures(self._share.failure)


class _Share(nn.Module):
    """The likelihood of a share of a batch: what `DistributedDataParallel` wraps.

    Where there is no example, or after an error, there is no likelihood either, but gradients are
    exchanged all the same.
    """

    def __init__(self, net: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.net = net
        self.likelihood = likelihood
        self.failure: Exception | None = None
        self._waits = any(isinstance(m, nn.SyncBatchNorm) for m in net.modules())

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor] | None:
        if self.failure is not None:
            return None
        try:
            if len(y):
                return self.scored(x, y)
            if self._waits:  # other processes wait in its forward pass for this one
                return self.net(x).sum(), y.sum()
        except Exception as error:
            self.failure = error
        return None

    def scored(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.net(x)
        nll = self.likelihood(logits, y)
        return nll, (logits.detach().argmax(1) == y).sum()


class _Touch(torch.autograd.Function):
    """A loss as a function of all weights, with no gradient for those it does not depend on.

    `DistributedDataParallel` waits until the backward pass has come to every weight.
    """

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *weights: Tensor) -> Tensor:
        ctx.count = len(weights)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        return grad_output, *([None] * ctx.count)


def _stream(seed: int, epoch: int, *, of: int) -> int:
    """The seed of a random stream of one epoch: `of` is 0 for what all share, else rank + 1."""
    return random.Random(f"{seed} {epoch} {of}").getrandbits(63)

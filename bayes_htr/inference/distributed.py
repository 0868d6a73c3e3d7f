"""Training in several processes: which one this is, and what they tell each other.

Every process holds the whole network and takes its share of each batch; gradients are averaged by
PyTorch's `DistributedDataParallel`. Alone, nothing here talks to anyone, and a step is that of the
plain network. `docs/distributed.md` says what follows for data, randomness and errors.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bayes_htr.errors import ProcessError
from bayes_htr.launcher import launched
from bayes_htr.models import Likelihood
from bayes_htr.processes import all_sum, connected, gathered, rank, world_size

if TYPE_CHECKING:
    from bayes_htr.inference.data import Batches

T = TypeVar("T")


def is_main() -> bool:
    """Whether this is the process that writes files, shows progress and prints."""
    return rank() == 0


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Join the processes that a launcher has started, if any, and leave them at the end.

    Args:
        device: `auto`, or a kind of device: `cpu` or `cuda`.

    Yields:
        The device of this process; alone, the one that was asked for.

    Raises:
        ValueError: A device that several processes cannot use.
    """
    if launched()[1] == 1:
        yield device
        return
    own = own_device(device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield str(own)
    finally:
        dist.destroy_process_group()


def own_device(device: str) -> torch.device:
    """The device of this process among those of its machine.

    Raises:
        ValueError: Neither `auto`, `cpu` nor `cuda`, or more processes than devices.
    """
    kind = device
    if device == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind not in ("cpu", "cuda"):
        raise ValueError(
            f"device={device!r} is not for several processes, each of which has one of its own; "
            "give 'auto', 'cpu' or 'cuda'"
        )
    if kind == "cpu":
        return torch.device("cpu")
    index, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if index >= there:
        raise ValueError(
            f"process {index} of this machine has no device of its own: there are {there} for "
            f"device={device!r}; start as many processes as devices, or give 'cpu'"
        )
    return torch.device("cuda", index)


def part(count: int) -> slice:
    """This process's contiguous part of `count` examples; the first ones get what is over."""
    base, over = divmod(count, world_size())
    start = rank() * base + min(rank(), over)
    return slice(start, start + base + (rank() < over))


def drawn_alike(items: Iterable[T], seed: int) -> Iterator[T]:
    """`items`, with what they draw from Torch's global generator the same in every process."""
    iterator = iter(items)
    state = torch.Generator().manual_seed(seed).get_state()
    while True:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(state)
            try:
                item = next(iterator)
            except StopIteration:
                return
            state = torch.get_rng_state()
        yield item


def align(tensors: Iterable[Tensor]) -> None:
    """Give tensors the values that they have in process 0."""
    if world_size() == 1:
        return
    with connected(), torch.no_grad():
        for tensor in tensors:
            values = tensor.detach().contiguous()
            dist.broadcast(values, src=0)
            if not is_main():
                tensor.copy_(values)


def from_main(make: Callable[[], T]) -> T:
    """What `make` returns in process 0, the only one to call it, for all of them.

    Raises:
        ProcessError: `make` raised; process 0 raises what it did.
    """
    if world_size() == 1:
        return make()
    result: list[Any] = [None]
    with together():
        if is_main():
            result = [make()]
    with connected():
        dist.broadcast_object_list(result, src=0)
    return result[0]


@contextmanager
def together() -> Iterator[None]:
    """An error of one process in this block becomes an error of all at its end.

    Raises:
        ProcessError: Another process raised something.
    """
    if world_size() == 1:
        yield
        return
    failure = None
    try:
        yield
    except ProcessError:  # the others know, or are gone
        raise
    except Exception as error:
        failure = error
    raise_failures(failure)


def raise_failures(failure: Exception | None) -> None:
    """Raise this process's failure, or else tell of another's; to be called in all of them.

    Raises:
        ProcessError: Another process has failed.
    """
    if world_size() == 1:
        return
    own = None if failure is None else f"{type(failure).__name__}: {failure}"
    for number, text in enumerate(gathered(own)):
        if failure is not None:
            raise failure
        if text is not None:
            raise ProcessError(f"process {number} of {world_size()} failed: {text}")


def check_same(settings: Mapping[str, Any]) -> None:
    """Hold the settings of a run to be the same in all processes.

    Raises:
        ValueError: They are not; it names the first that differs.
    """
    if world_size() == 1:
        return
    first, *others = gathered(dict(settings))
    for number, other in enumerate(others, start=1):
        for key, value in other.items():
            if value != first.get(key):
                raise ValueError(
                    f"{key} is {value!r} in process {number} and {first.get(key)!r} in process 0; "
                    "give all processes the same model, data and settings"
                )


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

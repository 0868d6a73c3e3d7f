"""Several processes that train together: the rank of each, and how they exchange values.

With one process nothing here communicates. `docs/distributed.md` says what several processes mean
for data, randomness and errors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bayes_htr.errors import ProcessError

T = TypeVar("T")

_PATIENCE = timedelta(days=365)
"""The time-out of exchanges between processes of which some may have hours more to work."""


_is_alone = False
"""Whether this process works by itself for now, although there is a process group."""


def world_size() -> int:
    """Return how many processes train together: 1 without a process group, and in `alone`."""
    if _is_alone or not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size()


@contextmanager
def alone() -> Iterator[None]:
    """Let this process work in this block as if there were no others; nothing communicates.

    This is how the members of a mixture are fitted, each by one of several processes.
    """
    global _is_alone
    before, _is_alone = _is_alone, True
    try:
        yield
    finally:
        _is_alone = before


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Join the processes that a launcher such as `torchrun` has started, and leave them at the end.

    Args:
        device: `auto`, or a kind of device: `cpu` or `cuda`.

    Yields:
        The device of this process; where there is only one process, the given device.

    Raises:
        ValueError: The device is not for several processes.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    if launched == 1:
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
    """Return the device of this process among those of its machine.

    Raises:
        ValueError: The device is neither `auto`, `cpu` nor `cuda`, or there are more processes than
            devices.
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


def meeting_device(device: torch.device) -> torch.device:
    """Return the device to which processes have to move a tensor of `device` to exchange it."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return device


def assign(
    costs: Sequence[float], processes: int, fixed: Mapping[int, int] | None = None
) -> list[int]:
    """Assign each task to a process, the largest task first and to the process with least work.

    The earlier of equally large tasks comes first, and the first of equally busy processes is
    chosen. `fixed` has the processes of tasks that only one process can do.
    """
    loads = [0.0] * processes
    owners = [0] * len(costs)
    fixed = fixed or {}
    order = sorted(range(len(costs)), key=lambda i: (i not in fixed, -costs[i]))
    for task in order:
        owners[task] = fixed[task] if task in fixed else loads.index(min(loads))
        loads[owners[task]] += costs[task]
    return owners


def local_slice(count: int) -> slice:
    """Return this process's contiguous part of `count` examples.

    If the number of processes does not divide `count`, the first processes get one example more.
    """
    base, remainder = divmod(count, world_size())
    start = rank() * base + min(rank(), remainder)
    return slice(start, start + base + (rank() < remainder))


def synchronised_rng(items: Iterable[T], seed: int) -> Iterator[T]:
    """Iterate over items whose draws from Torch's global generator are alike in all processes.

    The caller's own draws between two items are not affected.

    Args:
        items: An iterable, such as a `DataLoader` that shuffles by the global generator.
        seed: The seed of the draws, the same in all processes.
    """
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


class AsideStream:
    """A second stream of PyTorch's global random numbers, which is kept aside.

    Args:
        device: The device on which numbers are drawn, besides the CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device if device.type == "cuda" else None
        self._states = self._present()

    def seed(self, seed: int) -> None:
        """Begin the stream anew."""
        with self.swapped():
            torch.manual_seed(seed)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Let the global generators draw from this stream within the block.

        Within a second such block, they draw from their original stream again.
        """
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        present = self._present()
        torch.set_rng_state(self._states[0])
        if self._device is not None:
            torch.cuda.set_rng_state(self._states[1], self._device)
        self._states = present

    def _present(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        if self._device is not None:
            states.append(torch.cuda.get_rng_state(self._device))
        return states


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients of parameters over all processes, in one sum for each dtype.

    A parameter that has no gradient in this process counts as one whose gradient is zero.
    """
    by_dtype: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        by_dtype.setdefault(parameter.dtype, []).append(parameter)
    for alike in by_dtype.values():
        flat = torch.cat([p.grad.reshape(-1) for p in alike if p.grad is not None])
        parts = (all_sum(flat) / world_size()).split([p.numel() for p in alike])
        for parameter, part in zip(alike, parts, strict=True):
            parameter.grad = part.view_as(parameter)


def all_sum(values: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes."""
    if world_size() == 1:
        return values
    result = values.detach().clone().to(meeting_device(values.device))
    with connected():
        dist.all_reduce(result)
    return result.to(values.device)


@contextmanager
def patient_group() -> Iterator[Any]:
    """Yield a group of all processes that wait for each other for as long as they live.

    The time-out of the default group is too short where some have hours more to work than others.
    If a process ends, the others see its connection break. All processes have to call this.
    """
    if world_size() == 1:
        yield None
        return
    with connected():
        group = dist.new_group(backend="gloo", timeout=_PATIENCE)
    yield group
    dist.destroy_process_group(group)


def gathered(value: Any, group: Any = None) -> list[Any]:
    """Return the picklable values of all processes, by rank.

    Args:
        value: The value of this process.
        group: The group that exchanges them, such as a `patient_group`; by default that of all.
    """
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    with connected():
        dist.all_gather_object(values, value, group)
    return values


def sent_to(
    receiver: int, tensor: Tensor, shapes: Mapping[int, tuple[int, ...]]
) -> dict[int, Tensor] | None:
    """Send tensors to one process; no others are involved.

    Args:
        receiver: The process that receives.
        tensor: The tensor that this process sends.
        shapes: The shapes of what is sent, by the processes that send.

    Returns:
        In the process that receives, the tensors by the processes that have sent them; `None` in
        the others.
    """
    device = meeting_device(tensor.device)
    operations: list[dist.P2POp] = []
    arrived: dict[int, Tensor] = {}
    if rank() == receiver:
        for sender, shape in shapes.items():
            arrived[sender] = tensor
            if sender != receiver:
                arrived[sender] = torch.empty(shape, dtype=tensor.dtype, device=device)
                operations.append(dist.P2POp(dist.irecv, arrived[sender], sender))
    elif rank() in shapes:
        operations.append(dist.P2POp(dist.isend, tensor.to(device).contiguous(), receiver))
    with connected():
        for request in dist.batch_isend_irecv(operations) if operations else ():
            request.wait()
    if rank() != receiver:
        return None
    return {sender: part.to(tensor.device) for sender, part in arrived.items()}


def copy_from_rank0(tensors: Iterable[Tensor]) -> None:
    """Give tensors, in place, the values that they have in process 0."""
    if world_size() == 1:
        return
    with connected(), torch.no_grad():
        for tensor in tensors:
            values = tensor.detach().contiguous()
            dist.broadcast(values, src=0)
            if rank() > 0:
                tensor.copy_(values)


def run_on_rank0(function: Callable[[], T]) -> T:
    """Call a function in process 0 alone, and return its result in all processes.

    Raises:
        ProcessError: The function raised an error, which process 0 raises as it is.
    """
    if world_size() == 1:
        return function()
    result: list[Any] = [None]
    with fail_together():
        if rank() == 0:
            result = [function()]
    with connected():
        dist.broadcast_object_list(result, src=0)
    return result[0]


def check_same(settings: Mapping[str, Any]) -> None:
    """Require the settings of a run to be the same in all processes.

    Raises:
        ValueError: Settings differ; the message names the first setting that does.
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


@contextmanager
def fail_together(group: Any = None) -> Iterator[None]:
    """Turn an error of one process in this block into an error of all processes at its end.

    Args:
        group: The group that exchanges errors, such as a `patient_group`.

    Raises:
        ProcessError: Another process raised an error.
    """
    if world_size() == 1:
        yield
        return
    failure = None
    try:
        yield
    except ProcessError:  # the others know of it, or have ended
        raise
    except Exception as error:
        failure = error
    raise_failures(failure, group)


def raise_failures(failure: Exception | None, group: Any = None) -> None:
    """Raise this process's failure, or report that of another; all processes have to call it.

    Args:
        failure: The error that has occurred in this process, if any.
        group: The group that exchanges errors, such as a `patient_group`.

    Raises:
        ProcessError: Another process has failed.
    """
    if world_size() == 1:
        return
    own = None if failure is None else f"{type(failure).__name__}: {failure}"
    for number, text in enumerate(gathered(own, group)):
        if failure is not None:
            raise failure
        if text is not None:
            raise ProcessError(f"process {number} of {world_size()} failed: {text}")


@contextmanager
def connected() -> Iterator[None]:
    """If a connection to another process breaks in this block, raise an error that explains it.

    Raises:
        ProcessError: Another process cannot be reached.
    """
    try:
        yield
    except RuntimeError as error:
        raise ProcessError(
            f"another process cannot be reached ({error}); it has ended, and its own output tells "
            "why; resume the run from its last checkpoint"
        ) from error

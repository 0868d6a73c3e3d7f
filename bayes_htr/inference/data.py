"""Training data as batches on a device, checked before anything is trained on them."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterator, Sized
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    WeightedRandomSampler,
)

from bayes_htr._torch import evaluation_mode, isolated_randomness
from bayes_htr.errors import DataError
from bayes_htr.inference.distributed import drawn_alike, part
from bayes_htr.processes import world_size

Data: TypeAlias = "DataLoader[Any] | tuple[Any, Any]"
"""A `DataLoader` of `(x, y)` batches, or arrays or tensors `(X, y)`."""


def mixes_examples(net: nn.Module) -> bool:
    """Whether a network has batch normalisation, which takes statistics over examples."""
    return any(isinstance(module, _BatchNorm) for module in net.modules())


class Batches:
    """Batches `(x, y)` of a data set on a device, inputs cast to a network's dtype.

    Args:
        data: A `DataLoader`, taken as it is, or `(X, y)`.
        batch_size: For `(X, y)`: examples per batch; the last may be shorter.
        device: Where batches are put.
        dtype: What floating-point inputs are cast to.
        seed: For `(X, y)`: shuffle by a `torch.Generator` with this seed, as a `DataLoader` with
            `shuffle=True` does; `None` keeps the order.
        name: What errors call the data.

    Attributes:
        num_data: How many examples there are.

    Raises:
        DataError: No examples, lengths that differ, inputs that are not finite, labels that
            are negative or no integers, or a loader of unknown length.
    """

    def __init__(
        self,
        data: Data,
        *,
        batch_size: int = 128,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int | None = None,
        name: str = "train",
    ) -> None:
        self.device = device or torch.device("cpu")
        self.dtype = dtype
        self.name = name
        self._trusted = not isinstance(data, DataLoader)
        self._classes: int | None = None  # known once a network has been checked
        self.loader = (
            data if isinstance(data, DataLoader) else _loader(data, batch_size, seed, name)
        )
        self.num_data = _count(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in self._drawn():
            yield self._placed(x, y)

    def shares(self, seed: int, epoch: int = 0) -> Iterator[tuple[Tensor, Tensor, int]]:
        """What of each batch is for this process, and how many examples the whole batch has.

        Several processes take a contiguous part each, which may be empty. A loader with a
        `DistributedSampler` has dealt the examples already: there the whole batch is those of all
        processes, as many in each.

        Args:
            seed: Of what a loader draws from the global generator, in several processes.
            epoch: For a `DistributedSampler`, whose order depends on it.
        """
        sampler = _sampler(self.loader)
        dealt = isinstance(sampler, DistributedSampler)
        if dealt:
            sampler.set_epoch(epoch)
        if world_size() == 1:
            for x, y in self:
                yield x, y, len(y)
            return
        for x, y in drawn_alike(self._drawn(), seed):
            own = slice(None) if dealt else part(len(y))
            yield *self._placed(x[own], y[own]), len(y) * (world_size() if dealt else 1)

    def _drawn(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Checked batches, where the loader puts them."""
        for batch in self.loader:
            if not isinstance(batch, list | tuple) or len(batch) != 2:
                raise DataError(f"{self.name}: a batch must be a pair (x, y), not {type(batch)}")
            x, y = batch
            if not self._trusted:
                x, y = _checked(x, y, self.name)
                if self._classes is not None:
                    self.check_labels(self._classes, y)
            yield x, y

    def _placed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if x.dtype.is_floating_point:
            x = x.to(self.device, self.dtype, non_blocking=True)
        else:
            x = x.to(self.device, non_blocking=True)
        return x, y.to(self.device, torch.int64, non_blocking=True)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What tells these data from others on resuming: checksums where they are in memory."""
        dataset = self.loader.dataset
        found: dict[str, Any] = {"batch_size": self.loader.batch_size}
        sampler = _sampler(self.loader)
        if self.loader.batch_size is not None and isinstance(sampler, DistributedSampler):
            found["batch_size"] *= sampler.num_replicas  # that of all processes together
        if isinstance(dataset, _Arrays):
            found["checksums"] = [_checksum(dataset.x), _checksum(dataset.y)]
        return found

    @property
    def generators(self) -> list[torch.Generator]:
        """The generators that decide the order, for checkpoints."""
        owners = [self.loader, self.loader.batch_sampler, _sampler(self.loader)]
        found = [getattr(owner, "generator", None) for owner in owners]
        return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())

    def first(self) -> tuple[Tensor, Tensor]:
        """The batch that the next pass begins with; the order of that pass stays the same."""
        states = [g.get_state() for g in self.generators]
        with isolated_randomness():  # a loader without a generator draws from the global one
            x, y = next(iter(self))
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)
        return x, y

    def check_network(self, net: nn.Module) -> int:
        """Run the first batch through a network and hold its output to the labels.

        Returns:
            `C`, the number of the network's outputs.

        Raises:
            DataError: The network does not take the inputs, its output is not `(N, C)`, or a
                label is not less than `C`.
        """
        x, y = self.first()
        try:
            with evaluation_mode(net), torch.no_grad(), isolated_randomness():
                logits = net(x)
        except Exception as error:  # whatever the network stumbles over
            raise DataError(
                f"{self.name}: the network does not take inputs of shape {tuple(x.shape)} "
                f"and dtype {x.dtype}: {error}"
            ) from error
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(y):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits)
            raise DataError(
                f"{self.name}: the network must return logits of shape ({len(y)}, classes), "
                f"not {shape}"
            )
        self.check_labels(logits.shape[1], y)
        self._classes = logits.shape[1]
        return logits.shape[1]

    def check_last_batch(self, net: nn.Module) -> None:
        """Hold an epoch's last batch to what batch normalisation needs, which is two examples.

        Raises:
            DataError: One example is left, and the network cannot train on it.
        """
        sampler, batches = _sampler(self.loader), self.loader.batch_sampler
        size = getattr(batches, "batch_size", None)
        if not (isinstance(sampler, Sized) and isinstance(size, int)):
            return
        if (len(sampler) - 1) % size or (size > 1 and getattr(batches, "drop_last", False)):
            return
        if not mixes_examples(net):
            return
        alone, twin = self.first()[0][:1], copy.deepcopy(net)
        if not twin.training:  # as in training, layers that the user has put into evaluation stay
            twin.train()
        try:
            with isolated_randomness(), torch.no_grad():
                twin(alone)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise DataError(
                f"{self.name}: {len(sampler)} examples in batches of {size} leave a last batch of "
                f"one, on which batch normalisation cannot train ({error}); take another batch_size"
            ) from error

    def check_labels(self, classes: int, batch: Tensor | None = None) -> None:
        """Raise `DataError` if a label is not less than `classes`, of all data if in memory."""
        dataset = self.loader.dataset
        labels = dataset.y if isinstance(dataset, _Arrays) else batch
        if labels is not None and len(labels) and int(labels.max()) >= classes:
            raise DataError(
                f"{self.name}: label {int(labels.max())} does not match a network with {classes} "
                f"outputs (labels are 0 to {classes - 1}); change the last layer or the labels"
            )


class _Arrays(Dataset[tuple[Tensor, Tensor]]):
    """Examples held in memory, fetched a batch at a time."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        chosen = torch.as_tensor(indices)
        return self.x[chosen], self.y[chosen]


def _as_is(batch: Any) -> Any:
    return batch


def _loader(data: Any, batch_size: int, seed: int | None, name: str) -> DataLoader[Any]:
    if not isinstance(data, list | tuple) or len(data) != 2:
        raise DataError(f"{name} must be a DataLoader or a pair (X, y), not {type(data).__name__}")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise DataError(f"batch_size={batch_size!r} must be a positive whole number")
    x, y = _checked(data[0], data[1], name)
    if len(y) == 0:
        raise DataError(f"{name} holds no examples")
    # Also where the order is kept: a loader without a generator draws from the global one.
    generator = torch.Generator().manual_seed(0 if seed is None else seed)
    return DataLoader(
        _Arrays(x, y),
        batch_size=batch_size,
        shuffle=seed is not None,
        generator=generator,
        collate_fn=_as_is,
    )


def _checked(x: Any, y: Any, name: str) -> tuple[Tensor, Tensor]:
    x, y = _tensor(x, f"{name} inputs"), _tensor(y, f"{name} labels")
    if y.ndim != 1 or x.ndim < 1 or len(x) != len(y):
        raise DataError(
            f"{name}: inputs of shape {tuple(x.shape)} and labels of shape {tuple(y.shape)}; "
            "they must be (N, ...) and (N,)"
        )
    if y.dtype.is_floating_point or y.dtype.is_complex or y.dtype == torch.bool:
        raise DataError(
            f"{name}: labels of dtype {y.dtype} must be whole numbers of an integer dtype; "
            "convert them with .long()"
        )
    if len(y) and int(y.min()) < 0:
        raise DataError(f"{name}: label {int(y.min())} is negative; labels are 0 to classes - 1")
    if x.dtype == torch.uint8:
        raise DataError(f"{name}: inputs of dtype uint8; convert them, as in X.float() / 255")
    if x.dtype.is_floating_point and not bool(torch.isfinite(x).all()):
        bad = ~torch.isfinite(x)
        first = tuple(int(i) for i in bad.nonzero()[0])
        raise DataError(
            f"{name}: {int(bad.sum())} inputs are not finite, the first {x[first].item()} "
            f"at {first}; clean the data"
        )
    return x, y


def _tensor(values: Any, what: str) -> Tensor:
    if isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    if array.dtype == object or array.dtype.kind in "USmMV":
        raise DataError(f"{what} of dtype {array.dtype} are no numbers")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    # Torch takes neither views that run backwards nor foreign byte orders, and warns of views that
    # cannot be written to.
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.as_tensor(np.require(native, requirements=["C", "W"]))


def _checksum(values: Tensor) -> int:
    raw = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return zlib.crc32(raw.numpy().data)


def _sampler(loader: DataLoader[Any]) -> Any:
    """What decides which examples are drawn, also where the user gave a `batch_sampler`."""
    return getattr(loader.batch_sampler, "sampler", loader.sampler)


def _count(loader: DataLoader[Any], name: str) -> int:
    if isinstance(loader.dataset, IterableDataset) or not isinstance(loader.dataset, Sized):
        raise DataError(
            f"{name}: the loader's data set has no length, and the prior's weight against the data "
            "needs it; use a map-style data set"
        )
    if loader.batch_sampler is None:
        raise DataError(
            f"{name}: a loader with batch_size=None does not tell how many examples there are, and "
            "the prior's weight against the data needs it; give it a batch_size or batch_sampler"
        )
    count = len(loader.dataset)
    sampler = _sampler(loader)
    # A sampler that draws more or fewer examples in an epoch makes the data no more and no fewer.
    resamples = isinstance(sampler, RandomSampler | WeightedRandomSampler | DistributedSampler)
    if isinstance(sampler, Sized) and not resamples:  # it draws from a subset
        count = len(sampler)
    if count == 0:
        raise DataError(f"{name} holds no examples")
    if len(loader) == 0:
        raise DataError(
            f"{name}: the loader gives no batch; its batch size is above its {count} examples"
        )
    return count

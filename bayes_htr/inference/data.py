"""Training data as batches on a device, checked before anything is trained on them."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterator, Sized
from typing import Any, TypeAlias

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

from bayes_htr._checks import whole_number
from bayes_htr._torch import evaluation_mode, isolated_randomness
from bayes_htr.errors import DataError
from bayes_htr.models.examples import (
    check_labels,
    check_outputs,
    checked_examples,
    reason_against_outputs,
)

Data: TypeAlias = "DataLoader[Any] | tuple[Any, Any]"
"""A `DataLoader` of `(x, y)` batches, or arrays or tensors `(X, y)`."""


def mixes_examples(net: nn.Module) -> bool:
    """Return whether a network has batch normalisation, which takes statistics over examples."""
    return any(isinstance(module, _BatchNorm) for module in net.modules())


class Batches:
    """Batches `(x, y)` of a data set on a device, inputs cast to a network's dtype.

    Args:
        data: A `DataLoader`, which is used as it is, or `(X, y)`.
        batch_size: The number of examples per batch of `(X, y)`; the last batch may be shorter.
        device: The device on which batches are put.
        dtype: The dtype to which floating-point inputs are cast.
        seed: The seed of the `torch.Generator` that shuffles `(X, y)`, as a `DataLoader` with
            `shuffle=True` does; `None` keeps the order.
        name: The name of the data in error messages.

    Attributes:
        num_data: The number of examples.
        loader: The `DataLoader` that makes the batches.
        sampler: What decides which examples the loader draws.
        doubt: Why the outputs of the network, once it was checked, look unlike logits.

    Raises:
        DataError: There are no examples, inputs and labels differ in length, an input is not
            finite, a label is negative or no integer, the batch size is not positive, or a loader
            has no length.
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
        self._checks_batches = isinstance(data, DataLoader)  # arrays are checked once, as a whole
        self._classes: int | None = None  # known after `check_network`
        self.doubt: str | None = None
        size = whole_number(batch_size, "batch_size", at_least=1, below=2**31, error=DataError)
        self.loader = data if isinstance(data, DataLoader) else _loader(data, size, seed, name)
        # A batch sampler that the user has made may have a sampler inside.
        self.sampler: Any = getattr(self.loader.batch_sampler, "sampler", self.loader.sampler)
        self.num_data = self._count()

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.loader:
            x, y = self.check_batch(batch) if self._checks_batches else batch
            yield self.place(x, y)

    def set_epoch(self, epoch: int) -> None:
        """Tell a `DistributedSampler`, whose order depends on it, the epoch (from 0)."""
        if isinstance(self.sampler, DistributedSampler):
            self.sampler.set_epoch(epoch)

    def check_batch(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Check a batch of the loader; batches of arrays need no check.

        Args:
            batch: What the loader gives: a pair `(x, y)`.

        Returns:
            The pair, as tensors where the loader put them.

        Raises:
            DataError: Not a pair, or inputs or labels that cannot be trained on.
        """
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            raise DataError(f"{self.name}: a batch must be a pair (x, y), not {type(batch)}")
        x, y = batch
        if self._checks_batches:
            x, y = checked_examples(x, y, self.name)
            if self._classes is not None:
                self.check_labels(self._classes, y)
        return x, y

    def place(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Put a batch on the device, its inputs in the network's dtype and its labels in int64."""
        if x.dtype.is_floating_point:
            x = x.to(self.device, self.dtype, non_blocking=True)
        else:
            x = x.to(self.device, non_blocking=True)
        return x, y.to(self.device, torch.int64, non_blocking=True)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Plain data by which a resumed run recognises these data.

        It holds the batch size of all processes together, and checksums of data in memory.
        """
        batch_size = self.loader.batch_size
        if batch_size is not None and isinstance(self.sampler, DistributedSampler):
            batch_size *= self.sampler.num_replicas
        dataset = self.loader.dataset
        if not isinstance(dataset, _Arrays):
            return {"batch_size": batch_size}
        raw = [v.detach().cpu().contiguous().reshape(-1) for v in (dataset.x, dataset.y)]
        checksums = [zlib.crc32(values.view(torch.uint8).numpy().data) for values in raw]
        return {"batch_size": batch_size, "checksums": checksums}

    @property
    def generators(self) -> list[torch.Generator]:
        """The random generators that decide the order, each once; checkpoints hold their state."""
        owners = [self.loader, self.loader.batch_sampler, self.sampler]
        generators = [getattr(owner, "generator", None) for owner in owners]
        return list({id(g): g for g in generators if isinstance(g, torch.Generator)}.values())

    def first(self) -> tuple[Tensor, Tensor]:
        """Return the batch with which the next pass begins, without changing that pass."""
        states = [(generator, generator.get_state()) for generator in self.generators]
        with isolated_randomness():  # a loader without a generator draws from the global one
            x, y = next(iter(self))
        for generator, state in states:
            generator.set_state(state)
        return x, y

    def check_network(self, net: nn.Module) -> int:
        """Run the first batch through a network, and compare its output with the labels.

        Later batches of the user's loader are then checked for labels that are too large.

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
        except Exception as error:  # the user's network may raise anything
            raise DataError(
                f"{self.name}: the network does not take inputs of shape {tuple(x.shape)} "
                f"and dtype {x.dtype}: {error}"
            ) from error
        check_outputs(logits, len(y), self.name)
        self.check_labels(logits.shape[1], y)
        self.doubt = reason_against_outputs(logits, net)
        self._classes = logits.shape[1]
        return logits.shape[1]

    def check_last_batch(self, net: nn.Module) -> None:
        """Require that a network with batch normalisation can train on an epoch's last batch.

        Raises:
            DataError: One example is left for the last batch, and the network cannot train on it.
        """
        batches = self.loader.batch_sampler
        size = getattr(batches, "batch_size", None)
        if not (isinstance(self.sampler, Sized) and isinstance(size, int)):
            return
        drops_last = size > 1 and getattr(batches, "drop_last", False)
        leaves_one = (len(self.sampler) - 1) % size == 0 and not drops_last
        if not (leaves_one and mixes_examples(net)):
            return
        alone, twin = self.first()[0][:1], copy.deepcopy(net)
        if not twin.training:  # otherwise layers in evaluation mode stay in it, as in training
            twin.train()
        try:
            with isolated_randomness(), torch.no_grad():
                twin(alone)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise DataError(
                f"{self.name}: {len(self.sampler)} examples in batches of {size} leave a last "
                f"batch of one, on which batch normalisation cannot train ({error}); take another "
                "batch_size"
            ) from error

    def check_labels(self, classes: int, batch: Tensor | None = None) -> None:
        """Require labels to be less than the number of classes.

        Args:
            classes: The number of the network's outputs.
            batch: The labels of one batch; of data in memory all labels are checked instead.

        Raises:
            DataError: A label is not less than `classes`.
        """
        dataset = self.loader.dataset
        labels = dataset.y if isinstance(dataset, _Arrays) else batch
        if labels is not None:
            check_labels(labels, self.name, classes)

    def _count(self) -> int:
        """Count the examples: the prior's weight relative to the data depends on their number."""
        dataset = self.loader.dataset
        if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
            raise DataError(
                f"{self.name}: the loader's data set has no length, and the prior's weight against "
                "the data needs it; use a map-style data set"
            )
        if self.loader.batch_sampler is None:
            raise DataError(
                f"{self.name}: a loader with batch_size=None does not tell how many examples there "
                "are, and the prior's weight against the data needs it; give it a batch_size or "
                "batch_sampler"
            )
        count = len(dataset)
        # A sampler that draws more or fewer examples in an epoch makes the data no more and no
        # fewer; any other sampler draws from a subset.
        resamples = isinstance(
            self.sampler, RandomSampler | WeightedRandomSampler | DistributedSampler
        )
        if isinstance(self.sampler, Sized) and not resamples:
            count = len(self.sampler)
        if count == 0:
            raise DataError(f"{self.name} holds no examples")
        if len(self.loader) == 0:
            raise DataError(
                f"{self.name}: the loader gives no batch; its batch size is above its {count} "
                "examples"
            )
        return count


class _Arrays(Dataset[tuple[Tensor, Tensor]]):
    """Examples held in memory, which the loader fetches a batch at a time."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        chosen = torch.as_tensor(indices)
        return self.x[chosen], self.y[chosen]


def _loader(data: Any, batch_size: int, seed: int | None, name: str) -> DataLoader[Any]:
    if not isinstance(data, list | tuple) or len(data) != 2:
        raise DataError(f"{name} must be a DataLoader or a pair (X, y), not {type(data).__name__}")
    x, y = checked_examples(data[0], data[1], name)
    if len(y) == 0:
        raise DataError(f"{name} holds no examples")
    # Where the order is kept too, since a loader without a generator draws from the global one.
    generator = torch.Generator().manual_seed(0 if seed is None else seed)
    return DataLoader(
        _Arrays(x, y),
        batch_size=batch_size,
        shuffle=seed is not None,
        generator=generator,
        collate_fn=tuple,  # the data set fetches a whole batch: there is nothing to collate
    )

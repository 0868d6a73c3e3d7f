"""Training data as batches on a device, checked before anything is trained on them."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass
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
from bayes_htr._threads import counted_work
from bayes_htr._torch import evaluation_mode, isolated_randomness
from bayes_htr.errors import DataError
from bayes_htr.models import Categorical, Likelihood
from bayes_htr.models.examples import checked_examples, checked_inputs
from bayes_htr.models.inputs import (
    Inputs,
    call,
    describe_inputs,
    map_inputs,
    num_examples,
    tensors_in,
)

Data: TypeAlias = "DataLoader[Any] | tuple[Any, Any] | Mapping[str, Any]"
"""A `DataLoader`; arrays or tensors `(X, y)`; or inputs by name with their `labels`.

A loader gives batches `(x, y)` or dictionaries with `labels`. In both, the inputs are a tensor, a
tuple of tensors for `net(*x)`, or a dictionary for `net(**x)`.
"""

LABELS = ("labels", "label")
"""The names under which dictionaries have labels."""


def mixes_examples(net: nn.Module) -> bool:
    """Return whether a network has batch normalisation, which takes statistics over examples."""
    return any(isinstance(module, _BatchNorm) for module in net.modules())


def generators_of(loader: DataLoader[Any]) -> list[torch.Generator]:
    """Return the random generators that decide the order of a loader, each once."""
    batches = loader.batch_sampler
    owners = [loader, batches, getattr(batches, "sampler", loader.sampler)]
    generators = [getattr(owner, "generator", None) for owner in owners]
    return list({id(g): g for g in generators if isinstance(g, torch.Generator)}.values())


class Batches:
    """Batches `(x, y)` of a data set on a device, inputs cast to a network's dtype.

    Args:
        data: A `DataLoader`, which is used as it is; `(X, y)`; or a dictionary of inputs by name
            that also has the labels, as `labels`.
        batch_size: The number of examples per batch of data that are no loader; the last batch may
            be shorter.
        device: The device on which batches are put.
        dtype: The dtype to which floating-point inputs are cast.
        seed: The seed of the `torch.Generator` that shuffles the examples, as a `DataLoader` with
            `shuffle=True` does; `None` keeps the order.
        name: The name of the data in error messages.
        likelihood: The likelihood, which labels have to fit; that of classes by default.
        num_data: The number of examples, for a loader that does not know it.
        labelled: Whether there are labels. If not, those that are there are ignored, and batches
            have zeros in their place.
        counted: Whether the number of examples is needed.

    Attributes:
        num_data: The number of examples; 0 if it is not known and not needed.
        loader: The `DataLoader` that makes the batches.
        sampler: The sampler that decides which examples the loader draws.
        doubt: A reason for which the outputs do not look like logits, once the network was checked.
        multiply_adds: The work of the network for the first batch, once it was checked.

    Raises:
        DataError: There are no examples, inputs and labels differ in length, an input is not
            finite, a label does not suit the likelihood, the batch size is not positive, or a
            loader has no length and `num_data` is not given.
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
        likelihood: Likelihood | None = None,
        num_data: int | None = None,
        labelled: bool = True,
        counted: bool = True,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.dtype = dtype
        self.name = name
        self.likelihood = Categorical() if likelihood is None else likelihood
        self.labelled = labelled
        self._checks_batches = isinstance(data, DataLoader)  # arrays are checked once, as a whole
        self._outputs: Tensor | None = None  # of one example, known after `check_network`
        self._several: int | None = None  # how many inputs a batch has, once one was seen
        self._num_batches: int | None = None
        self.doubt: str | None = None
        self.multiply_adds = 0
        size = whole_number(batch_size, "batch_size", at_least=1, below=2**31, error=DataError)
        if isinstance(data, DataLoader):
            self.loader = data
        else:
            x, y = self._examples(*self._split(data, whole=True))
            if len(y) == 0:
                raise DataError(f"{name} holds no examples")
            # Where the order is kept too: a loader without a generator draws from the global one.
            generator = torch.Generator().manual_seed(0 if seed is None else seed)
            self.loader = DataLoader(
                _Arrays(x, y),
                batch_size=size,
                shuffle=seed is not None,
                generator=generator,
                collate_fn=tuple,  # the data set fetches a whole batch: nothing is to be collated
            )
        # A batch sampler that the user has made may have a sampler inside.
        self.sampler: Any = getattr(self.loader.batch_sampler, "sampler", self.loader.sampler)
        try:
            len(self.loader)
            self._has_length = True
        except TypeError:
            self._has_length = False
        if num_data is not None:
            self.num_data = whole_number(num_data, "num_data", at_least=1, error=DataError)
        else:
            self.num_data = self._count(required=counted)

    def __len__(self) -> int:
        """Return the number of batches in an epoch, estimated if the loader does not tell it."""
        if self._num_batches is None:
            if self._has_length:
                self._num_batches = len(self.loader)
            else:
                size = self.loader.batch_size or num_examples(self.first()[0])
                self._num_batches = max(1, -(-self.num_data // size))
        return self._num_batches

    def __iter__(self) -> Iterator[tuple[Inputs, Tensor]]:
        for batch in self.raw():
            x, y = self.check_batch(batch)
            yield self.place(x, y)

    def raw(self) -> Iterator[Any]:
        """Yield the loader's own batches of one epoch.

        An iterable data set without a length ends an epoch itself, or it ends after `num_data`
        examples.
        """
        if self._has_length or not self.num_data:
            yield from self.loader
            return
        seen = 0
        for batch in self.loader:
            yield batch
            seen += num_examples(self.check_batch(batch)[0])
            if seen >= self.num_data:
                return

    def set_epoch(self, epoch: int) -> None:
        """Tell a `DistributedSampler` the epoch (from 0), on which its order depends."""
        if isinstance(self.sampler, DistributedSampler):
            self.sampler.set_epoch(epoch)

    def check_batch(self, batch: Any) -> tuple[Inputs, Tensor]:
        """Check a batch of the loader; batches of arrays need no check.

        Args:
            batch: A batch of the loader: a pair `(x, y)`, or a dictionary of inputs and labels.

        Returns:
            Inputs and labels, as tensors where the loader put them.

        Raises:
            DataError: The batch is neither of these, or its inputs or labels cannot be trained on.
        """
        if not self._checks_batches:
            x, y = batch
            return x, y
        x, y = self._examples(*self._split(batch))
        if self._outputs is not None and self.labelled:
            self.likelihood.check_range(y, self._outputs, self.name)
        return x, y

    def place(self, x: Inputs, y: Tensor) -> tuple[Inputs, Tensor]:
        """Put a batch on the device, inputs in the network's dtype and labels in their own."""

        def placed(t: Tensor) -> Tensor:
            if t.dtype.is_floating_point:
                return t.to(self.device, self.dtype, non_blocking=True)
            return t.to(self.device, non_blocking=True)

        if self.labelled:
            is_coarse = self.dtype not in (torch.float32, torch.float64)
            y = self.likelihood.cast(y, torch.float32 if is_coarse else self.dtype)
        return map_inputs(placed, x), y.to(self.device, non_blocking=True)

    def _split(self, data: Any, *, whole: bool = False) -> tuple[Any, Any]:
        """Return the inputs and labels of a batch, or of the whole data.

        The labels are `None` if they are not needed.

        Raises:
            DataError: The data are neither a pair nor a dictionary with labels.
        """
        if isinstance(data, Mapping):
            x = {key: value for key, value in data.items() if key not in LABELS}
            y = next((data[key] for key in LABELS if key in data), None)
            if y is None and self.labelled:
                raise DataError(
                    f"{self.name}: a dictionary with {', '.join(map(str, data))} has no "
                    f"{LABELS[0]!r}; put the labels under that name"
                )
            return x, y
        pairs = (tuple,) if whole and not self.labelled else (tuple, list)
        if isinstance(data, pairs) and len(data) == 2:
            return data[0], data[1]
        if not self.labelled:
            alone = isinstance(data, list | tuple) and len(data) == 1 and not whole
            return (data[0] if alone else data), None
        if whole:
            raise DataError(
                f"{self.name} must be a DataLoader or a pair (X, y), or a dictionary with "
                f"'labels', not {type(data).__name__}"
            )
        of = f" of {len(data)}" if isinstance(data, list | tuple) else ""
        raise DataError(
            f"{self.name}: a batch must be a pair (x, y) or a dictionary with 'labels', not "
            f"{type(data)}{of}; for several inputs give ((x1, x2), y)"
        )

    def _examples(self, x: Any, y: Any) -> tuple[Inputs, Tensor]:
        """Return inputs and labels as checked tensors; labels that are not needed are zeros."""
        if self.labelled:
            labels = self.likelihood.checked
            x, y = checked_examples(x, y, self.name, labels, self._several)
        else:
            count = len(y) if hasattr(y, "__len__") else None  # labels tell inputs from examples
            x = checked_inputs(x, self.name, count, self._several)
            y = torch.zeros(num_examples(x), dtype=torch.int64)
        if not isinstance(x, Tensor):
            self._several = len(x)
        return x, y

    @property
    def arrays(self) -> tuple[Inputs, Tensor] | None:
        """All inputs and labels where they are in memory; `None` if they come from a loader."""
        dataset = self.loader.dataset
        return (dataset.x, dataset.y) if isinstance(dataset, _Arrays) else None

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
        tensors = [*tensors_in(dataset.x), dataset.y]
        raw = [v.detach().cpu().contiguous().reshape(-1) for v in tensors]
        checksums = [zlib.crc32(values.view(torch.uint8).numpy().data) for values in raw]
        return {"batch_size": batch_size, "checksums": checksums}

    def first(self) -> tuple[Inputs, Tensor]:
        """Return the batch with which the next pass begins, without changing that pass."""
        states = [(generator, generator.get_state()) for generator in generators_of(self.loader)]
        with isolated_randomness():  # a loader without a generator draws from the global one
            batch = next(iter(self), None)
        for generator, state in states:
            generator.set_state(state)
        if batch is None:
            raise DataError(f"{self.name} holds no examples")
        return batch

    def check_network(self, net: nn.Module) -> None:
        """Run the first batch through a network, and compare its outputs with the labels.

        Later batches of the user's loader are then checked for labels that are too large.

        Raises:
            DataError: The network does not take the inputs, the likelihood does not take the
                outputs, or they do not fit a label.
        """
        x, y = self.first()
        try:
            with (
                evaluation_mode(net),
                torch.no_grad(),
                isolated_randomness(),
                counted_work(net) as work,
            ):
                outputs = call(net, x)
        except Exception as error:  # the user's network may raise anything
            raise DataError(
                f"{self.name}: the network does not take {describe_inputs(x)}: {error}"
            ) from error
        given = y if self.labelled else None
        self.likelihood.check_outputs(outputs, num_examples(x), self.name, given)
        self.doubt = self.likelihood.doubt(outputs, net)
        self._outputs, self.multiply_adds = outputs[:1], work.multiply_adds
        dataset = self.loader.dataset
        if self.labelled and isinstance(dataset, _Arrays):
            self.likelihood.check_range(dataset.y, self._outputs, self.name)

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
        alone, twin = map_inputs(lambda t: t[:1], self.first()[0]), copy.deepcopy(net)
        if not twin.training:  # otherwise layers in evaluation mode stay in it, as in training
            twin.train()
        try:
            with isolated_randomness(), torch.no_grad():
                call(twin, alone)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise DataError(
                f"{self.name}: {len(self.sampler)} examples in batches of {size} leave a last "
                f"batch of one, on which batch normalisation cannot train ({error}); take another "
                "batch_size"
            ) from error

    def _count(self, *, required: bool) -> int:
        """Count the examples: the prior's weight relative to the data depends on their number.

        Args:
            required: Whether the number is needed; otherwise it is 0 where the loader does not
                tell it.
        """
        dataset = self.loader.dataset
        is_sized = isinstance(dataset, Sized) and not isinstance(dataset, IterableDataset)
        if not required and not (is_sized and self.loader.batch_sampler is not None):
            return 0
        if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
            raise DataError(
                f"{self.name}: the loader's data set has no length, and the prior's weight against "
                "the data needs it; pass num_data=, or use a map-style data set"
            )
        if self.loader.batch_sampler is None:
            raise DataError(
                f"{self.name}: a loader with batch_size=None does not tell how many examples there "
                "are, and the prior's weight against the data needs it; pass num_data=, or give "
                "the loader a batch_size or batch_sampler"
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


@dataclass(eq=False)
class _Arrays(Dataset[tuple[Inputs, Tensor]]):
    """Examples held in memory, which the loader fetches a batch at a time."""

    x: Inputs
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Inputs, Tensor]:
        return map_inputs(lambda t: t[index], self.x), self.y[index]

    def __getitems__(self, indices: list[int]) -> tuple[Inputs, Tensor]:
        chosen = torch.as_tensor(indices)
        return map_inputs(lambda t: t[chosen], self.x), self.y[chosen]

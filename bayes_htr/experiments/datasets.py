"""Image data sets as standardised tensors, ready for `bayes_htr.fit`.

`load_dataset("digits")` needs no file and no internet, because the data set is part of
scikit-learn. The others are read from an `.npz` file in `data_dir`, or downloaded from OpenML
through scikit-learn. Every source gives the same kind of `Dataset`: channels first, float32, and
each channel shifted and scaled by the mean and standard deviation of the *training* images. The
range of the raw pixels (0 to 16 for digits and 0 to 255 for the others) therefore does not matter.

References:
    Fashion-MNIST: Xiao, Rasul & Vollgraf (2017), arXiv:1708.07747.
    Kuzushiji-MNIST: Clanuwat et al. (2018), arXiv:1812.01718.
    CIFAR-10: Krizhevsky (2009), Learning multiple layers of features from tiny images.
"""

from __future__ import annotations

from dataclasses import dataclass
from http.client import HTTPException
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bayes_htr.errors import DataError

_Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set, split and standardised.

    Attributes:
        name: the name that `load_dataset` accepts.
        x_train: training images, float32 `(N, C, H, W)`, per-channel mean 0 and variance 1.
        y_train: training labels, int64 `(N,)`.
        x_test: test images, standardised with the mean and standard deviation of the training
            images.
        y_test: test labels.
        classes: the names of the classes, in the order of the labels.
        mean: mean of the raw training images, `(1, C, 1, 1)`.
        deviation: their standard deviation, `(1, C, 1, 1)`.
        preparation: for the user's own data, what was done to the inputs, as plain data.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: tuple[str, ...]
    mean: Tensor
    deviation: Tensor
    preparation: dict[str, Any] | None = None

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape of one image: channels, height, width."""
        _, channels, height, width = self.x_train.shape
        return channels, height, width

    def standardised_for(self, other: Dataset, x: Tensor) -> Tensor:
        """Return this data set's images in the form for a network trained on another data set.

        Args:
            other: The other data set.
            x: `(N, C, H, W)`, standardised as in this data set.

        Returns:
            The same images, standardised with the mean and standard deviation of the other data
            set.
        """
        return (x * self.deviation + (self.mean - other.mean)) / other.deviation


@dataclass(frozen=True)
class _Source:
    """The source of a data set that is not part of scikit-learn, and its expected format."""

    files: tuple[str, ...]  # names looked for in data_dir, best first
    shape: tuple[int, ...]  # of one image in the file: (H, W) or (H, W, C)
    openml_id: int
    train_size: int  # the official split of the OpenML table: first the training rows,
    test_size: int  # then the test rows
    classes: tuple[str, ...]

    @property
    def channels_first(self) -> tuple[int, int, int]:
        height, width, *channels = self.shape
        return (channels[0] if channels else 1), height, width


_SOURCES = {
    "fashion_mnist": _Source(
        files=("fashion_mnist.npz",),
        shape=(28, 28),
        openml_id=40996,
        train_size=60_000,
        test_size=10_000,
        classes=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
    ),
    "kmnist": _Source(
        files=("kmnist.npz", "kmnist_10k.npz"),
        shape=(28, 28),
        openml_id=41982,
        train_size=60_000,
        test_size=10_000,
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    ),
    "cifar10": _Source(
        files=("cifar10.npz", "cifar10_12k.npz"),
        shape=(32, 32, 3),
        openml_id=40927,
        train_size=50_000,
        test_size=10_000,
        classes=(
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        ),
    ),
}

DATASETS: tuple[str, ...] = ("digits", *_SOURCES)
"""The names that `load_dataset` accepts."""

_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True, eq=False)
class _Raw:
    """Checked images `(N, C, H, W)` and labels `(N,)`, in the data type of the source."""

    x_train: _Array
    y_train: _Array
    x_test: _Array
    y_test: _Array


def load_dataset(
    name: str, data_dir: str | PathLike[str] | None = None, *, seed: int = 0
) -> Dataset:
    """Load a data set by name.

    Args:
        name: one of `DATASETS`.
        data_dir: a folder with the `.npz` file of the data set: uint8 images `x_train` and `x_test`
            (`(N, 28, 28)`, for CIFAR-10 `(N, 32, 32, 3)`) and labels `y_train` and `y_test`. The
            accepted names, in order of preference, are `fashion_mnist.npz`; `kmnist.npz`,
            `kmnist_10k.npz`; `cifar10.npz`, `cifar10_12k.npz`. Without a folder, the data set is
            downloaded from OpenML into the cache of scikit-learn. Digits need neither.
        seed: seed of the stratified 80/20 split of digits. The others have a split of their own.

    Raises:
        DataError: the name is unknown, or the source is missing, unreadable or malformed.
        ImportError: scikit-learn is needed and not installed.
    """
    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}")
    if name == "digits":
        return _standardised(name, _digits(seed), tuple("0123456789"))
    source = _SOURCES[name]
    raw = _openml(name, source) if data_dir is None else _file(Path(data_dir), name, source)
    return _standardised(name, raw, source.classes)


def _standardised(name: str, raw: _Raw, classes: tuple[str, ...]) -> Dataset:
    """Convert raw arrays to tensors; the images are converted once and then changed in place."""

    def images(array: _Array) -> Tensor:
        return torch.from_numpy(array).to(torch.float32, memory_format=torch.contiguous_format)

    def labels(array: _Array) -> Tensor:
        return torch.from_numpy(array.astype(np.int64))

    x_train, x_test = images(raw.x_train), images(raw.x_test)
    variance, mean = torch.var_mean(x_train, dim=(0, 2, 3), correction=0, keepdim=True)
    for channel, value in enumerate(variance.flatten().tolist()):
        if not value > 0:
            raise DataError(
                f"{name}: channel {channel} of the training images has variance {value}, so it "
                "cannot be standardised: check that the images were written correctly"
            )
    deviation = variance.sqrt()
    for x in (x_train, x_test):
        x.sub_(mean).div_(deviation)
    y_train, y_test = labels(raw.y_train), labels(raw.y_test)
    return Dataset(name, x_train, y_train, x_test, y_test, classes, mean, deviation)


# Digits: embedded in scikit-learn


def _digits(seed: int) -> _Raw:
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        _raise_no_sklearn("digits", error)
    bunch = load_digits()
    x_train, x_test, y_train, y_test = train_test_split(
        bunch.images[:, None],
        bunch.target,
        test_size=0.2,
        random_state=seed,
        stratify=bunch.target,
    )
    return _Raw(x_train, y_train, x_test, y_test)


def _raise_no_sklearn(name: str, error: ImportError) -> NoReturn:
    raise ImportError(
        f'the data set {name!r} needs scikit-learn: pip install "bayes-htr[data]"'
    ) from error


# Files in data_dir


def _file(folder: Path, name: str, source: _Source) -> _Raw:
    folder = folder.expanduser()
    wanted = " or ".join(source.files)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(
            f"data_dir {str(folder)!r} {what}: give the folder that holds {wanted}, "
            f"or no data_dir to fetch {name} from OpenML"
        )
    for file in source.files:
        path = folder / file
        if path.is_file():
            break
    else:
        raise DataError(
            f"no {wanted} in {str(folder)!r}: put the file there, "
            f"or give no data_dir to fetch {name} from OpenML"
        )
    arrays = _read_npz(path)
    channels_first = (
        _check_images(path, "x_train", arrays["x_train"], source),
        _check_images(path, "x_test", arrays["x_test"], source),
    )
    for split in ("train", "test"):
        images, labels = f"x_{split}", f"y_{split}"
        _check_labels(str(path), labels, arrays[labels], source)
        if len(arrays[images]) != len(arrays[labels]):
            raise DataError(
                f"{path}: {images} has {len(arrays[images])} images but {labels} has "
                f"{len(arrays[labels])} labels: write one label per image"
            )
    return _Raw(channels_first[0], arrays["y_train"], channels_first[1], arrays["y_test"])


def _read_npz(path: Path) -> dict[str, _Array]:
    """Read the four arrays; any failure raises a `DataError` that names the file."""
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(
                    f"{path} holds a single array, not an .npz archive: "
                    f"write it with numpy.savez(path, {', '.join(f'{a}=...' for a in _ARRAYS)})"
                )
            missing = [array for array in _ARRAYS if array not in archive.files]
            if missing:
                raise DataError(
                    f"{path} lacks the arrays {', '.join(missing)} "
                    f"(it holds {', '.join(sorted(archive.files)) or 'none'}): "
                    f"it must hold {', '.join(_ARRAYS)}"
                )
            return {array: archive[array] for array in _ARRAYS}
    except DataError:
        raise
    except Exception as error:  # damaged bytes make zipfile and NumPy raise nearly anything
        raise DataError(
            f"{path} cannot be read as an .npz archive ({type(error).__name__}: {error}): "
            "it may be truncated or damaged, so copy or write it again"
        ) from error


def _check_images(path: Path, array: str, images: _Array, source: _Source) -> _Array:
    """Check the images of a file and return a view with the channels first."""
    expected = ", ".join(str(n) for n in source.shape)
    if images.dtype != np.uint8:
        raise DataError(
            f"{path}: {array} has dtype {images.dtype}, expected uint8: "
            "write the pixels as integers from 0 to 255"
        )
    if images.shape[1:] != source.shape or images.ndim != len(source.shape) + 1:
        raise DataError(
            f"{path}: {array} has shape {images.shape}, expected (N, {expected}): reshape it"
        )
    if len(images) == 0:
        raise DataError(f"{path}: {array} holds no images: write at least one")
    return images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)


def _check_labels(where: str, array: str, labels: _Array, source: _Source) -> None:
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{where}: {array} has dtype {labels.dtype}, expected uint8: "
            "write the labels as integers"
        )
    if labels.ndim != 1:
        raise DataError(f"{where}: {array} has shape {labels.shape}, expected (N,): flatten it")
    bad = np.flatnonzero((labels < 0) | (labels >= len(source.classes)))
    if bad.size:
        raise DataError(
            f"{where}: {array} has the label {labels[bad[0]]} at index {bad[0]} "
            f"({bad.size} such labels): labels must be from 0 to {len(source.classes) - 1}"
        )


# OpenML


def _openml(name: str, source: _Source) -> _Raw:
    try:
        from sklearn.datasets import fetch_openml
    except ImportError as error:
        _raise_no_sklearn(name, error)
    where = f"OpenML data set {source.openml_id}"
    # The parser that is there without pandas is much slower and takes more memory.
    parser = "liac-arff" if find_spec("pandas") is None else "auto"
    try:
        bunch = fetch_openml(data_id=source.openml_id, as_frame=False, parser=parser)
    except (OSError, HTTPException, ValueError) as error:
        raise DataError(
            f"{name} cannot be fetched from OpenML ({type(error).__name__}: {error}): check the "
            f"network, or use --data-dir (data_dir=) with a folder that holds "
            f"{' or '.join(source.files)}"
        ) from error
    rows = source.train_size + source.test_size
    channels, height, width = source.channels_first
    table = np.asarray(bunch.data)
    if table.shape != (rows, channels * height * width) or len(bunch.target) != rows:
        raise DataError(
            f"{where} has data of shape {table.shape} and {len(bunch.target)} labels, expected "
            f"({rows}, {channels * height * width}) and {rows}: {_other_source(source)}"
        )
    with np.errstate(invalid="ignore"):
        pixels = table.astype(np.uint8)
    if not np.array_equal(pixels, table):
        raise DataError(
            f"{where} has pixels that are not integers from 0 to 255: {_other_source(source)}"
        )
    try:
        labels = np.asarray(bunch.target).astype(np.int64)  # from strings
    except ValueError as error:
        raise DataError(
            f"{where} has labels that are not integers ({error}): {_other_source(source)}"
        ) from error
    _check_labels(where, "target", labels, source)
    # A row is its channels' planes, one after the other.
    images = pixels.reshape(rows, channels, height, width)
    n = source.train_size
    return _Raw(images[:n], labels[:n], images[n:], labels[n:])


def _other_source(source: _Source) -> str:
    return (
        "delete scikit-learn's cache and fetch it again, or use --data-dir (data_dir=) "
        f"with a folder that holds {' or '.join(source.files)}"
    )

"""The user's own data on the command line: a CSV table, `.npz` archive, or folder of images.

`load_own` makes the same kind of `Dataset` as `load_dataset`. The inputs of a table are
`(N, channels, 1, 1)`, with a channel for each column of numbers, and for each word of a column of
words, so that each channel is standardised by itself. What was done to the inputs is kept as plain
data in `Dataset.preparation`, which a run folder has in its configuration, and `load_inputs` does
the same to new inputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bayes_htr.errors import DataError
from bayes_htr.experiments.datasets import DATASETS, Dataset
from bayes_htr.experiments.tables import Columns, labelled_table, whole_labels

_Array = npt.NDArray[Any]

_TEST_SHARE = 0.2
_FEWEST = 2  # examples of a class: one to train on, one to test on
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


def is_own_data(name: str) -> bool:
    """Return whether a name is the path of a file or folder that `load_own` may read."""
    path = Path(name)
    if name in DATASETS:
        return False
    return path.suffix.lower() in (".csv", ".npz") or path.is_dir()


def load_own(path: str | PathLike[str], target: str | None = None, *, seed: int = 0) -> Dataset:
    """Read labelled data, and split and standardise them.

    Args:
        path: A `.csv` file with a line of column names and numbers or words below it; an `.npz`
            file with `X` `(N, ...)` and `y` `(N,)`, or already split with `x_train`, `y_train`,
            `x_test` and `y_test`; or a folder with a folder of images of one size for each class.
        target: The column of a table that has the labels.
        seed: The seed of the split: a fifth of each class are test examples.

    Raises:
        DataError: A file is missing, unreadable or malformed, or a value is not a number.
        ImportError: Images need Pillow, which is not installed.
    """
    path = Path(path).expanduser()
    if target is not None and path.suffix.lower() != ".csv":
        raise DataError(f"--target {target}: only tables have columns, and {path} is no .csv file")
    columns = Columns()
    if path.suffix.lower() == ".csv":
        columns, x, y = labelled_table(path, target)
        x = x[:, :, None, None]
    elif path.is_dir():
        x, y = _image_folder(path)
    else:
        arrays = _archive(path, ("X", "y"))
        if "x_train" in arrays:
            return _standardised(path, columns, target, *_split_arrays(path, arrays))
        x, y = _images_first(path, "X", arrays["X"]), _labels(path, "y", arrays["y"])
    _check_pair(path, x, y)
    is_test = _stratified(path, y, seed)
    split = x[~is_test], y[~is_test], x[is_test], y[is_test]
    return _standardised(path, columns, target, *split)


def load_inputs(path: str | PathLike[str], preparation: Mapping[str, Any]) -> Tensor:
    """Read inputs for a network that was trained on the data of `load_own`.

    Args:
        path: A `.csv` file with the columns of the training table, in any order, and possibly
            others; an `.npz` file with `X`; or a folder of images.
        preparation: The preparation of the training data, from `Dataset.preparation`.

    Returns:
        `(N, C, H, W)`, standardised as the training data were.

    Raises:
        DataError: The inputs cannot be read, or differ from those of the training data in columns,
            words or shape.
    """
    path = Path(path).expanduser()
    columns = Columns(tuple(preparation["columns"]), preparation.get("categories", {}))
    if path.suffix.lower() == ".csv":
        if not columns.names:
            raise DataError(f"{path} is a table, and the network was trained on arrays or images")
        x = columns.read(path)[:, :, None, None]
    elif path.is_dir():
        x = np.stack([_image(file) for file in _images_in(path)])
    else:
        x = _images_first(path, "X", _archive(path, ("X",))["X"])
    shape = tuple(preparation["shape"])
    if x.shape[2:] == (1, 1) and x.shape[1] == math.prod(shape):
        x = x.reshape(-1, *shape)  # images as rows
    if x.shape[1:] != shape:
        raise DataError(
            f"{path} has inputs of shape {x.shape[1:]}, and the network was trained on {shape}"
        )
    mean, deviation = (torch.tensor(preparation[k])[:, None, None] for k in ("mean", "deviation"))
    return (torch.from_numpy(x.astype(np.float32)) - mean) / deviation


def _standardised(
    path: Path,
    columns: Columns,
    target: str | None,
    x_train: _Array,
    y_train: _Array,
    x_test: _Array,
    y_test: _Array,
) -> Dataset:
    classes, labels = np.unique(y_train, return_inverse=True)
    if len(classes) < 2:
        raise DataError(f"{path} has the single class {classes[0]}; a classifier needs two or more")
    if unknown := sorted(set(y_test.tolist()) - set(classes.tolist())):
        raise DataError(f"{path}: no training example has the label {unknown[0]} of test examples")
    inputs = [torch.from_numpy(x.astype(np.float32)) for x in (x_train, x_test)]
    for what, x in zip(("training", "test"), inputs, strict=True):
        if not bool(torch.isfinite(x).all()):
            raise DataError(f"{path} has {what} inputs that are not finite; fill them in or drop")
    variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0, keepdim=True)
    deviation = torch.where(variance > 0, variance, 1.0).sqrt()  # a constant column stays zero
    preparation: dict[str, Any] = {
        "columns": list(columns.names),
        "target": target,
        "classes": [str(c) for c in classes],
        "shape": list(inputs[0].shape[1:]),
        "mean": mean.flatten().tolist(),
        "deviation": deviation.flatten().tolist(),
    }
    if columns.categories:
        preparation["categories"] = {n: list(words) for n, words in columns.categories.items()}
    return Dataset(
        name=path.name,
        x_train=(inputs[0] - mean) / deviation,
        y_train=torch.from_numpy(labels.reshape(-1).astype(np.int64)),
        x_test=(inputs[1] - mean) / deviation,
        y_test=torch.from_numpy(np.searchsorted(classes, y_test).astype(np.int64)),
        classes=tuple(str(c) for c in classes),
        mean=mean,
        deviation=deviation,
        preparation=preparation,
    )


def _stratified(path: Path, y: _Array, seed: int) -> npt.NDArray[np.bool_]:
    """Choose a fifth of each class as test examples, at least one."""
    generator = np.random.default_rng(seed)
    is_test = np.zeros(len(y), dtype=bool)
    for label in np.unique(y):
        members = generator.permutation(np.flatnonzero(y == label))
        if len(members) < _FEWEST:
            raise DataError(
                f"{path}: the class {label} has a single example, and one is needed for training "
                "and one for testing; add examples, or leave the class out"
            )
        is_test[members[: max(1, round(_TEST_SHARE * len(members)))]] = True
    return is_test


def _check_pair(path: Path, x: _Array, y: _Array) -> None:
    if len(x) != len(y):
        raise DataError(f"{path} has {len(x)} inputs and {len(y)} labels; give one label per input")
    if not len(x):
        raise DataError(f"{path} has no examples")


# Arrays


def _archive(path: Path, names: Sequence[str]) -> dict[str, _Array]:
    """Return the arrays of an archive: those of the names, or those of a split."""
    split = ("x_train", "y_train", "x_test", "y_test")
    try:
        with np.load(path, allow_pickle=False) as archive:
            for wanted in (names, split):
                if all(name in archive.files for name in wanted):
                    return {name: archive[name] for name in wanted}
            found = ", ".join(sorted(archive.files)) or "none"
    except Exception as error:  # damaged bytes make zipfile and NumPy raise nearly anything
        raise DataError(
            f"{path} cannot be read as an .npz archive ({type(error).__name__}: {error})"
        ) from error
    raise DataError(
        f"{path} has the arrays {found}; it must have {' and '.join(names)}"
        + (f", or {', '.join(split)}" if "y" in names else "")
    )


def _split_arrays(path: Path, arrays: Mapping[str, _Array]) -> tuple[_Array, ...]:
    result: list[_Array] = []
    for part in ("train", "test"):
        x = _images_first(path, f"x_{part}", arrays[f"x_{part}"])
        y = _labels(path, f"y_{part}", arrays[f"y_{part}"])
        _check_pair(path, x, y)
        result += [x, y]
    return tuple(result)


def _images_first(path: Path, name: str, x: _Array) -> _Array:
    """Return inputs as `(N, C, H, W)`.

    They are given as rows of a table, as grey images, or as images with channels.
    """
    if x.dtype.kind not in "fiub":
        raise DataError(f"{path}: {name} has dtype {x.dtype}; give numbers")
    if x.ndim == 2:
        return x[:, :, None, None]
    if x.ndim == 3:
        return x[:, None]
    if x.ndim != 4:
        raise DataError(
            f"{path}: {name} has shape {x.shape}; give (N, D), (N, H, W), (N, H, W, C) or "
            "(N, C, H, W)"
        )
    is_last = x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4)
    return x.transpose(0, 3, 1, 2) if is_last else x


def _labels(path: Path, name: str, y: _Array) -> _Array:
    if y.ndim != 1:
        raise DataError(f"{path}: {name} has shape {y.shape}; give (N,) labels")
    return whole_labels(path, name, y) if y.dtype.kind == "f" else y


# Images


def _image_folder(path: Path) -> tuple[_Array, _Array]:
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(folders) < 2:
        raise DataError(
            f"{path} has {len(folders)} folders; give a folder of images for each class"
        )
    files = [(file, folder.name) for folder in folders for file in _images_in(folder)]
    images = [_image(file) for file, _ in files]
    for (file, _), image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise DataError(
                f"{file} has the shape {image.shape}, and {files[0][0]} has {images[0].shape} "
                "(channels, height, width); bring all images to one size and mode"
            )
    return np.stack(images), np.array([label for _, label in files])


def _images_in(folder: Path) -> list[Path]:
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in _IMAGES)
    if not found:
        raise DataError(f"{folder} has no images ({', '.join(_IMAGES)})")
    return found


def _image(file: Path) -> _Array:
    """Return an image as `(C, H, W)`, grey or RGB."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('images need Pillow: pip install "bayes-htr[plot]"') from error
    try:
        with Image.open(file) as image:
            grey = image.mode in ("1", "L", "I", "I;16", "F")
            array = np.asarray(image.convert("L" if grey else "RGB"))
    except Exception as error:  # damaged bytes make decoders raise nearly anything
        raise DataError(f"{file} cannot be read as an image: {error}") from error
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)

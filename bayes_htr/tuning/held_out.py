"""The data on which trials train and those on which they are scored."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bayes_htr._checks import number
from bayes_htr.errors import DataError
from bayes_htr.inference import Batches, Data
from bayes_htr.models import BayesianModel
from bayes_htr.models.inputs import map_inputs
from bayes_htr.posterior.prediction import batches_for


class HeldOut(NamedTuple):
    """Data in two parts.

    Attributes:
        train: The data on which trials train.
        validation: The data on which trials are scored.
        is_part: Whether the validation data were taken from the training data.
    """

    train: Data
    validation: Data
    is_part: bool


def hold_out(
    model: BayesianModel,
    train: Data,
    validation: Data | None,
    *,
    fraction: float = 0.1,
    seed: int = 0,
) -> HeldOut:
    """Return the data to train on and those to score on.

    Args:
        model: The model, whose likelihood says what labels are.
        train: The training data, as `htr.fit` takes them.
        validation: The data to score on. Without them, a random part of the training data is held
            out; the training data must then be arrays, not a `DataLoader`.
        fraction: The share of the training data that is held out, in (0, 1).
        seed: The seed of the random choice.

    Raises:
        DataError: The data are not valid, nothing can be held out of a `DataLoader`, or nothing
            would be left.
        ValueError: The fraction is out of range.
    """
    if validation is not None:
        batches_for(model.net, validation, "validation", model.likelihood)
        return HeldOut(train, validation, False)
    fraction = number(fraction, "validation_fraction", above=0, below=1)
    arrays = None
    if not isinstance(train, DataLoader):
        arrays = Batches(train, name="train", likelihood=model.likelihood).arrays
    if arrays is None:
        raise DataError(
            f"nothing can be held out of train, a {type(train).__name__}; pass validation=, on "
            "which strengths are compared"
        )
    x, y = arrays
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    count = math.ceil(fraction * len(y))
    if not 0 < count < len(y):
        raise DataError(
            f"train: holding out {count} of {len(y)} examples leaves none to train on; pass more, "
            "or validation="
        )
    held, rest = order[:count], order[count:]
    parts = [(map_inputs(partial(_rows, index=i), x), _rows(y, i)) for i in (rest, held)]
    return HeldOut(parts[0], parts[1], True)


def _rows(tensor: Tensor, index: Tensor) -> Tensor:
    return tensor[index.to(tensor.device)]

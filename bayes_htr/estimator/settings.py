"""What the settings and data of an estimator mean for `htr.fit`.

There are functions for the network, the method, the priors, the number of epochs, the scaling of
inputs, the codes of labels, and the choice of validation data.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from os import PathLike
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bayes_htr._checks import number, whole_number
from bayes_htr.engine import Drift
from bayes_htr.errors import DataError
from bayes_htr.experiments.named_priors import named_priors
from bayes_htr.inference import MAP, NUTS, SVI, Method
from bayes_htr.inference.defaults import default_method
from bayes_htr.priors import ESD, Lomax, Prior, Priors

Array: TypeAlias = "npt.NDArray[Any]"
ModuleSetting: TypeAlias = "nn.Module | Callable[[int, int], nn.Module] | None"
PriorSetting: TypeAlias = "str | PathLike[str] | Prior | Priors | None"

TABLE = "table"
"""The name of the prior that was chosen on tables of data (`docs/tables.md`)."""
TABLE_PRIOR, TABLE_STRENGTH = ESD(Lomax(2.5, 5.0)), 2.0
"""This prior, and its strength where none is given, for a posterior of the default network."""
TABLE_METHOD = {"init_scale": 0.5, "refresh": Drift(), "noisy_directions": None}
"""The settings of `method="svi"` for the default network with which the prior was chosen; other
networks have those of `htr.fit`."""
TABLE_STEPS, STEPS = (400, 1000), (1000, 1000)
"""The fewest and the most updates where no number of epochs is given: by this method for the
default network, and otherwise."""
_TABLE_LR = 0.02
BATCH = 32
"""The number of examples of an update where none is given."""
_FEWEST_EPOCHS, _USUAL_EPOCHS, _MOST_EPOCHS = 10, 30, 500


def build_module(
    module: ModuleSetting,
    hidden: Sequence[int],
    n_features: int,
    n_classes: int,
    *,
    dtype: torch.dtype,
) -> nn.Module:
    """Build the network of an estimator; initial weights are drawn from the global generator.

    Args:
        module: A module, which is copied; a callable that makes one; or `None` for layers
            `fc1`, `fc2`, ... with ReLU between them.
        hidden: The numbers of units of the hidden layers.
        n_features: The number of inputs.
        n_classes: The number of outputs.
        dtype: The precision of the layers.

    Raises:
        ValueError: `module` is not a module and does not make one, or a number of units is not
            positive.
    """
    if isinstance(module, nn.Module):
        return copy.deepcopy(module)
    if module is not None:
        made = module(n_features, n_classes) if callable(module) else None
        if not isinstance(made, nn.Module) or inspect.isclass(made):
            raise ValueError(
                f"module={module!r} must be a torch.nn.Module, or make one when it is called with "
                f"the numbers of features and classes; it gave {made!r}"
            )
        return made
    widths: Any = hidden
    if not isinstance(widths, list | tuple | np.ndarray):
        raise ValueError(f"hidden={hidden!r} must be a sequence of numbers of units, as in (256,)")
    units = [whole_number(width, "hidden", at_least=1) for width in widths]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    sizes = pairwise([n_features, *units, n_classes])
    for layer, (inputs, outputs) in enumerate(sizes, start=1):
        if layer > 1:
            layers[f"relu{layer - 1}"] = nn.ReLU()
        layers[f"fc{layer}"] = nn.Linear(inputs, outputs, dtype=dtype)
    return nn.Sequential(layers)


def chosen_method(
    method: str | Method,
    net: nn.Module,
    lr: float | None,
    patience: int | None,
    *,
    own_network: bool,
) -> Method:
    """Return the method that an estimator trains with.

    Args:
        method: `"svi"`, `"map"`, `"nuts"`, or a method with settings.
        net: The network; the default settings of SVI depend on it.
        lr: The learning rate; `None` for that of the method.
        patience: The number of epochs after which early stopping ends; `None` for none.
        own_network: Whether the network is one that the user has given.

    Raises:
        ValueError: `method` is not a method, or does not take the learning rate or early stopping.
    """
    given: dict[str, Any] = {} if lr is None else {"lr": number(lr, "lr", above=0)}
    chosen: Any = method
    if method == "svi":
        settings: dict[str, Any] = {} if own_network else TABLE_METHOD
        chosen = default_method(net, **settings | given)
    elif method == "map":
        chosen = MAP(**given)
    elif isinstance(method, str) and method != "nuts":
        raise ValueError(
            f"method={method!r} must be 'svi', 'map', 'nuts', or a method with settings, such as "
            "htr.SVI(lr=0.01)"
        )
    elif given:
        raise ValueError(
            f"lr={lr!r} is for method='svi' or 'map'; {method!r} has one of its own, or none"
        )
    elif method == "nuts":
        chosen = NUTS()
    if patience is None:
        return chosen
    patience = whole_number(patience, "patience", at_least=1)
    if isinstance(chosen, NUTS):
        raise ValueError("early_stopping=True is not for NUTS, which has no epochs; switch it off")
    return chosen if chosen.patience is not None else dataclasses.replace(chosen, patience=patience)


def chosen_priors(
    prior: PriorSetting,
    strength: float | Literal["auto"] | None,
    *,
    num_data: int,
    method: Method,
    own_network: bool,
) -> Priors:
    """Return the priors at their strength.

    Args:
        prior: A name, a file of priors, a prior, or priors; `None` is `"none"`.
        strength: The factor of the strength; `None` for the default that `HTRClassifier` tells, and
            `"auto"` for 1, which `htr.fit` then multiplies.
        num_data: The number of training examples.
        method: The method; the default strength of a named prior depends on it.
        own_network: Whether the network is one that the user has given; `"table"` is then
            `"lomax"`, as it is for a mode.

    Raises:
        PriorError: The prior is unknown, or the strength is not a number of at least 0.
    """
    posterior = not isinstance(method, MAP)
    if strength == "auto":
        strength = 1.0
    if prior == TABLE:
        prior = "lomax"
        if posterior and not own_network:
            prior, strength = TABLE_PRIOR, TABLE_STRENGTH if strength is None else strength
    if prior is None or isinstance(prior, str | PathLike):
        name = "none" if prior is None else prior
        return named_priors(name, strength=strength, num_data=num_data, posterior=posterior)
    priors = prior if isinstance(prior, Priors) else Priors(prior)
    return priors if strength is None else priors.scaled(strength)


def chosen_epochs(
    epochs: int | None,
    *,
    num_data: int,
    batch_size: int,
    method: Method,
    steps: tuple[int, int],
) -> int | None:
    """Return the number of epochs.

    Args:
        epochs: The number that is given. `None` stands for 30 if that makes a number of updates
            within `steps`, and otherwise for the number of epochs that makes the nearest number
            of updates within `steps`.
        num_data: The number of training examples.
        batch_size: The number of examples per update.
        method: The method; NUTS has no epochs.
        steps: The fewest and the most updates.

    Raises:
        ValueError: `epochs` is less than 1.
    """
    if isinstance(method, NUTS):
        return None
    if epochs is not None:
        return whole_number(epochs, "epochs", at_least=1)
    batches = math.ceil(num_data / batch_size)
    updates = min(max(_USUAL_EPOCHS * batches, steps[0]), steps[1])
    return min(max(math.ceil(updates / batches), _FEWEST_EPOCHS), _MOST_EPOCHS)


def table_lr(updates: int) -> float:
    """Return the learning rate of `method="svi"` for the default network.

    It is 0.02 for at most 400 updates, and is inversely proportional to their number beyond, so
    that longer training does not move the weights farther.

    Args:
        updates: The number of updates.
    """
    return _TABLE_LR * min(1.0, TABLE_STEPS[0] / updates)


def chosen_training(
    method: Method,
    epochs: int | None,
    lr: float | None,
    num_data: int,
    batch_size: int,
    *,
    is_table: bool,
) -> tuple[Method, int | None]:
    """Return the method with its learning rate, and the number of epochs.

    Args:
        method: The method.
        epochs: The number of epochs that is given, if any.
        lr: The learning rate that is given, if any, which the method has already.
        num_data: The number of training examples.
        batch_size: The number of examples per update.
        is_table: Whether it is `method="svi"` for the default network.

    Raises:
        ValueError: `epochs` is less than 1.
    """
    steps = TABLE_STEPS if is_table else STEPS
    epochs = chosen_epochs(
        epochs, num_data=num_data, batch_size=batch_size, method=method, steps=steps
    )
    if is_table and lr is None and isinstance(method, SVI) and epochs is not None:
        updates = epochs * math.ceil(num_data / batch_size)
        method = dataclasses.replace(method, lr=table_lr(updates))
    return method, epochs


def mean_and_scale(x: Array) -> tuple[Array, Array]:
    """Return the mean and scale that standardise inputs, by column of a table or by channel.

    Args:
        x: Inputs `(N, D)` or `(N, D, ...)`.

    Returns:
        Mean and standard deviation, `(1, D)` or `(1, D, 1, ...)` float64. For columns that are
        constant but for rounding errors the deviation is replaced by 1.
    """
    axes = (0, *range(2, x.ndim))
    mean = x.mean(axes, dtype=np.float64, keepdims=True)
    deviation = x.std(axes, dtype=np.float64, keepdims=True)
    return mean, np.where(deviation <= 1e-7 * np.abs(mean), 1.0, deviation)


def clipped(x: Array, bound: float) -> Array:
    """Return inputs `x / sqrt(1 + (x / bound)^2)`: small ones hardly change, none exceeds `bound`.

    A column that is nearly always 0 has a small standard deviation, so that its rare values are
    tens of standard deviations from the mean and would decide the output alone.

    Source: Holzmüller, Grinsztajn & Steinwart (2024), "Better by default", arXiv:2407.04491.

    Args:
        x: Standardised inputs of any shape.
        bound: The largest absolute value, above 0.
    """
    return np.asarray(x / np.sqrt(1 + (x / bound) ** 2))


def codes_of(y: Any, classes: Array, examples: int) -> Array:
    """Return labels as numbers from 0.

    Args:
        y: The labels.
        classes: The labels in the order of their numbers, `(C,)`.
        examples: How many labels there must be.

    Raises:
        DataError: The number of labels is not `examples`, or a label is not among `classes`.
    """
    labels = np.asarray(y)
    if labels.shape != (examples,):
        raise DataError(
            f"{examples} examples and labels of shape {labels.shape}; give one label for each"
        )
    code_of = {label: code for code, label in enumerate(classes.tolist())}
    if unknown := sorted({v for v in labels.tolist() if v not in code_of}, key=repr):
        raise DataError(
            f"the labels {unknown} are not among those of the first fit, {list(code_of)}; leave "
            "these examples out, or fit anew with all of them (and warm_start=False)"
        )
    return np.array([code_of[label] for label in labels.tolist()], dtype=np.int64)


def held_out(codes: Array, fraction: float, random: np.random.RandomState) -> npt.NDArray[np.bool_]:
    """Choose validation examples: a fraction of each class, rounded, but never all of a class.

    Args:
        codes: The classes of the examples, `(N,)`.
        fraction: The fraction, in (0, 1).
        random: The source of randomness.

    Returns:
        Which examples are held out, `(N,)`.

    Raises:
        ValueError: The fraction is out of range, or so small that nothing is held out.
    """
    share = number(fraction, "validation_fraction", above=0, below=1)
    held = np.zeros(len(codes), dtype=bool)
    for code in np.unique(codes):
        of_class = random.permutation(np.flatnonzero(codes == code))
        held[of_class[: min(round(share * len(of_class)), len(of_class) - 1)]] = True
    if not held.any():
        raise ValueError(
            f"validation_fraction={fraction} of {len(codes)} examples holds out none of any class; "
            "make it larger, or switch early_stopping off"
        )
    return held


def divided(
    inputs: Array, codes: Array, fraction: float, seed: int
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Return examples to train on, and those that `held_out` chooses.

    Args:
        inputs: The inputs, `(N, ...)`.
        codes: The class of each example, `(N,)`.
        fraction: The fraction that is held out, in (0, 1).
        seed: The seed of the choice.

    Raises:
        ValueError: The same errors as in `held_out`.
    """
    held = held_out(codes, fraction, np.random.RandomState(seed % 2**32))
    return (inputs[~held], codes[~held]), (inputs[held], codes[held])

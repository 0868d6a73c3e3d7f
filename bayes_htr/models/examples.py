"""Checks of data and outputs: inputs and labels become tensors, and outputs look like logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bayes_htr.errors import DataError
from bayes_htr.models.inputs import (
    Inputs,
    describe_inputs,
    num_examples,
    tensors_in,
)


def checked_examples(
    x: Any, y: Any, name: str, labels: Callable[[Any, str], Tensor], several: int | None = None
) -> tuple[Inputs, Tensor]:
    """Make inputs and labels tensors.

    Args:
        x: Inputs `(N, ...)`: a tensor, an array, or something from which NumPy makes an array; a
            tuple or a mapping of these for a network with several inputs.
        y: Labels `(N, ...)`.
        name: The name of the data in errors.
        labels: The function that makes labels a tensor and checks them, `Likelihood.checked`.
        several: The number of inputs of the network, if it is known.

    Raises:
        DataError: Inputs and labels differ in length, an input is not finite, a label does not suit
            the likelihood, or something cannot be made a tensor.
    """
    y = labels(y, name)
    if y.ndim < 1:
        raise DataError(f"{name}: labels of shape () must be (N, ...)")
    x = checked_inputs(x, name, len(y), several)
    if num_examples(x) != len(y):
        raise DataError(
            f"{name}: {describe_inputs(x, dtypes=False)} and labels of shape {tuple(y.shape)}; "
            "they must have one label for each example"
        )
    return x, y


def checked_inputs(
    x: Any, name: str, count: int | None = None, several: int | None = None
) -> Inputs:
    """Make inputs tensors.

    A tuple or list of arrays that all have `count` entries is taken for several inputs. If there
    are just as many arrays as examples, a list is taken for the examples one by one.

    Args:
        x: Inputs as `checked_examples` takes them.
        name: The name of the data in errors.
        count: The number of examples, if it is known.
        several: The number of inputs of the network, if it is known.

    Raises:
        DataError: An input is not finite, is of dtype uint8, has no dimension, or cannot be made a
            tensor; or inputs differ in their number of examples.
    """
    inputs: Inputs
    if isinstance(x, Mapping):
        inputs = {str(key): as_tensor(v, f"{name} input {key!r}") for key, v in x.items()}
    elif _is_several(x, count, several):
        inputs = tuple(as_tensor(v, f"{name} input {i}") for i, v in enumerate(x))
    else:
        inputs = as_tensor(x, f"{name} inputs")
    tensors = tensors_in(inputs)
    if not tensors:
        raise DataError(f"{name}: there are no inputs")
    if any(tensor.ndim < 1 for tensor in tensors):
        raise DataError(f"{name}: inputs of shape () must be (N, ...)")
    if len({len(tensor) for tensor in tensors}) > 1:
        raise DataError(
            f"{name}: {describe_inputs(inputs, dtypes=False)} must have the same number of examples"
        )
    for tensor in tensors:
        if tensor.dtype == torch.uint8:
            raise DataError(f"{name}: inputs of dtype uint8; convert them, as in X.float() / 255")
        if tensor.is_floating_point() or tensor.is_complex():
            _require_finite(tensor, name)
    return inputs


def _is_several(x: Any, count: int | None, several: int | None) -> bool:
    """Return whether a sequence holds several inputs, and not examples one by one."""
    if not isinstance(x, list | tuple) or not x:
        return False
    lengths = [len(v) if getattr(v, "ndim", 0) else None for v in x]
    if None in lengths or len(set(lengths)) > 1 or (count is not None and lengths[0] != count):
        return False
    if several is not None:
        return len(x) == several
    if len(x) == lengths[0]:
        return isinstance(x, tuple)
    return count is not None or isinstance(x, tuple)


def _require_finite(x: Tensor, name: str) -> None:
    if bool(torch.isfinite(x).all()):
        return
    bad = ~torch.isfinite(x)
    first = tuple(int(i) for i in bad.nonzero()[0])
    raise DataError(
        f"{name}: {int(bad.sum())} inputs are not finite, the first {x[first].item()} "
        f"at {first}; clean the data"
    )


def check_class_labels(y: Tensor, name: str) -> None:
    """Require class labels of an integer dtype.

    Raises:
        DataError: The labels have another dtype.
    """
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise DataError(
            f"{name}: labels of dtype {y.dtype} must be whole numbers of an integer dtype; "
            "convert class labels with .long(). Real-valued targets need another likelihood, as in "
            "htr.BayesianModel(net, priors, likelihood=htr.Normal(scale=htr.HalfCauchy(1.0))), and "
            "yes-or-no labels likelihood=htr.Bernoulli()"
        )


def is_abstract(y: Tensor) -> bool:
    """Return whether a tensor has no numbers yet.

    This is so within a transform of `torch.func`, or within a trace.
    """
    return torch._C._functorch.is_functorch_wrapped_tensor(y) or torch._C._is_tracing()


def check_labels(
    y: Tensor, name: str, classes: int | None = None, ignore_index: int | None = None
) -> None:
    """Require labels from 0 to `classes - 1`, or of at least 0 if the number is not known.

    Labels within a transform of `torch.func` or a trace have no numbers yet, and are not checked.

    Raises:
        DataError: A label is out of range and is not the one to be ignored.
    """
    if is_abstract(y) or y.numel() == 0:
        return
    if ignore_index is not None:
        y = y[y != ignore_index]
        if y.numel() == 0:
            return
    if int(y.min()) < 0:
        hint = ""
        if int(y.min()) == -100 and ignore_index is None:
            hint = "; if -100 stands for no label, take htr.Categorical(ignore_index=-100)"
        raise DataError(
            f"{name}: label {int(y.min())} is negative; labels are 0 to classes - 1{hint}"
        )
    if classes is not None and int(y.max()) >= classes:
        raise DataError(
            f"{name}: label {int(y.max())} does not match a network with {classes} outputs "
            f"(labels are 0 to {classes - 1}); change the last layer or the labels"
        )


_SQUASHING = (nn.Sigmoid, nn.LogSigmoid, nn.Hardsigmoid, nn.Softmin, nn.ReLU, nn.ReLU6, nn.Tanh)


def reason_against_outputs(logits: Tensor, net: nn.Module) -> str | None:
    """Say why outputs do not look like logits: they are probabilities, or all of one sign.

    Args:
        logits: The outputs of a network, `(N, C)` and finite.
        net: The network.

    Returns:
        A sentence, or `None` if nothing speaks against them.
    """
    if logits.numel() == 0 or logits.shape[1] < 2 or logits.is_complex():
        return None
    p = logits.float()
    if bool((p >= 0).all()) and bool(((p.sum(1) - 1).abs() < 1e-2).all()):
        return (
            "the outputs of the network are probabilities, which sum to 1 for each example: its "
            "last layer is a softmax, and the likelihood applies another one. Let the network "
            "return logits: leave out the softmax"
        )
    return reason_against_last_layer(net, "softmax", "class")


def reason_against_last_layer(net: nn.Module, link: str, label: str) -> str | None:
    """Say in a sentence that a network ends with a layer that makes no logits, if it does.

    Args:
        net: The network.
        link: The name of the function that the likelihood applies to the outputs.
        label: The word for the outcomes that have the probabilities, such as `"class"`.
    """
    *_, last = net.modules()
    if isinstance(last, _SQUASHING):
        return (
            f"the last layer of the network is {type(last).__name__}, and its outputs are taken as "
            f"logits, of which the {link} is the probability of each {label}: the network cannot "
            f"be sure of any {label}. Leave that layer out"
        )
    return None


def as_tensor(values: Any, what: str) -> Tensor:
    """Make numbers a dense tensor without gradient.

    Args:
        values: A tensor, an array, or something from which NumPy makes an array.
        what: The name of the numbers in errors.

    Raises:
        DataError: The values are no numbers, their shapes differ, an array has masked entries, or a
            tensor is not dense.
    """
    if isinstance(values, list | tuple) and values and all(isinstance(v, Tensor) for v in values):
        shapes = sorted({tuple(v.shape) for v in values})
        if len(shapes) > 1:
            raise DataError(
                f"{what} are tensors of different shapes, {shapes[0]} and {shapes[1]}; pad or crop "
                "them to one shape"
            )
        values = torch.stack(list(values))
    if isinstance(values, Tensor):
        if values.layout != torch.strided or values.is_nested or values.is_quantized:
            raise DataError(
                f"{what} of layout {values.layout} and dtype {values.dtype} are not dense; convert "
                "them with .to_dense() or .dequantize()"
            )
        if values.is_meta:
            raise DataError(f"{what} are on the meta device and have no entries")
        return values.detach()
    if hasattr(values, "toarray"):
        raise DataError(f"{what} are a sparse {type(values).__name__}; convert them by .toarray()")
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"{what} cannot be made one array ({error}); bring all examples to one shape"
        ) from error
    if np.ma.is_masked(values):
        raise DataError(f"{what} have masked entries; fill them, as in X.filled(0.0)")
    if array.dtype == object or array.dtype.kind in "USmMV":
        raise DataError(f"{what} of dtype {array.dtype} are no numbers{_encoding(array, what)}")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    # Torch takes neither views with negative strides nor foreign byte orders, and warns of arrays
    # that are not writeable.
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    try:
        return torch.as_tensor(np.require(native, requirements=["C", "W"]))
    except TypeError as error:
        raise DataError(f"{what} of dtype {array.dtype} cannot be used ({error})") from error


def _encoding(array: Any, what: str) -> str:
    """Say what to do about labels that are words; empty for anything else."""
    are_words = array.dtype.kind in "US" or all(isinstance(v, str) for v in array.flat)
    if not (what.endswith("labels") and are_words and array.size):
        return ""
    return "; encode words by classes, y = np.unique(labels, return_inverse=True)"

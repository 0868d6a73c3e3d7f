"""Examples as a classifier takes them: inputs and labels as tensors, checked; and its outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bayes_htr.errors import DataError


def checked_examples(x: Any, y: Any, name: str) -> tuple[Tensor, Tensor]:
    """Inputs and labels as tensors.

    Args:
        x: Inputs `(N, ...)`: a tensor, an array, or what NumPy makes an array of.
        y: Labels `(N,)`.
        name: What errors call the data.

    Raises:
        DataError: They differ in length, an input is not finite, or a label is negative or no
            whole number; or they cannot be made tensors.
    """
    x, y = as_tensor(x, f"{name} inputs"), as_tensor(y, f"{name} labels")
    if x.ndim < 1:
        raise DataError(f"{name}: inputs of shape () must be (N, ...)")
    check_label_shape(y, tuple(x.shape), name)
    check_labels(y, name)
    if x.dtype == torch.uint8:
        raise DataError(f"{name}: inputs of dtype uint8; convert them, as in X.float() / 255")
    if (x.is_floating_point() or x.is_complex()) and not bool(torch.isfinite(x).all()):
        bad = ~torch.isfinite(x)
        first = tuple(int(i) for i in bad.nonzero()[0])
        raise DataError(
            f"{name}: {int(bad.sum())} inputs are not finite, the first {x[first].item()} "
            f"at {first}; clean the data"
        )
    return x, y


def check_label_shape(y: Tensor, inputs: tuple[int, ...], name: str) -> None:
    """Require one label of an integer dtype for each example.

    Args:
        y: Labels.
        inputs: The shape of the inputs, `(N, ...)`.
        name: What errors call the data.

    Raises:
        DataError: Another shape or dtype.
    """
    if y.shape != inputs[:1]:
        hint = ""
        if y.ndim == 2 and len(y) == inputs[0]:
            hint = "; take labels.squeeze(1)" if y.shape[1] == 1 else "; take labels.argmax(1)"
        raise DataError(
            f"{name}: inputs of shape {inputs} and labels of shape {tuple(y.shape)}; "
            f"they must be (N, ...) and (N,){hint}"
        )
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise DataError(
            f"{name}: labels of dtype {y.dtype} must be whole numbers of an integer dtype; "
            "convert class labels with .long(). Real-valued targets have no likelihood here: "
            "bayes_htr trains classifiers"
        )


def check_labels(y: Tensor, name: str, classes: int | None = None) -> None:
    """Require labels from 0 to `classes - 1`, or of at least 0 if the number is not known.

    Labels within a transform of `torch.func` or a trace have no numbers yet, and are not checked.

    Raises:
        DataError: A label out of range.
    """
    is_abstract = torch._C._functorch.is_functorch_wrapped_tensor(y) or torch._C._is_tracing()
    if is_abstract or len(y) == 0:
        return
    if int(y.min()) < 0:
        raise DataError(f"{name}: label {int(y.min())} is negative; labels are 0 to classes - 1")
    if classes is not None and int(y.max()) >= classes:
        raise DataError(
            f"{name}: label {int(y.max())} does not match a network with {classes} outputs "
            f"(labels are 0 to {classes - 1}); change the last layer or the labels"
        )


def check_outputs(logits: Any, examples: int, name: str) -> None:
    """Require logits `(N, C)` of a network.

    Raises:
        DataError: Something else.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != examples:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits)
        raise DataError(
            f"{name}: the network must return logits of shape ({examples}, classes), not {shape}"
        )


_SQUASHING = (nn.Sigmoid, nn.LogSigmoid, nn.Hardsigmoid, nn.Softmin, nn.ReLU, nn.ReLU6, nn.Tanh)


def reason_against_outputs(logits: Tensor, net: nn.Module) -> str | None:
    """Why outputs look unlike logits: probabilities, or of one sign or in an interval.

    Args:
        logits: Outputs `(N, C)` of a network, finite.
        net: The network.

    Returns:
        A sentence, or `None`.
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
    *_, last = net.modules()
    if isinstance(last, _SQUASHING):
        return (
            f"the last layer of the network is {type(last).__name__}, and its outputs are taken as "
            "logits, of which the softmax is the probability of each class: the network cannot be "
            "sure of any class. Leave that layer out"
        )
    return None


def as_tensor(values: Any, what: str) -> Tensor:
    """Numbers as a dense tensor without gradient.

    Raises:
        DataError: No numbers, numbers of different shapes, a masked array, or a tensor that is
            not dense.
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
        raise DataError(f"{what} of dtype {array.dtype} are no numbers")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    # Torch takes neither views with negative strides nor foreign byte orders, and warns of arrays
    # that are not writeable.
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    try:
        return torch.as_tensor(np.require(native, requirements=["C", "W"]))
    except TypeError as error:
        raise DataError(f"{what} of dtype {array.dtype} cannot be used ({error})") from error

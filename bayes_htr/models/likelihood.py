"""The likelihood of class labels given logits: `prod_i prod_c p(c | x_i, W)^(w_{y_i} q_ic)`.

With `q` the label alone and `w` 1 it is the ordinary one. Class weights and soft labels make it a
tempered one, which need not sum to 1 over the labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

from bayes_htr._checks import number
from bayes_htr.errors import DataError
from bayes_htr.models.examples import check_label_shape, check_labels

SMOOTHING_SITE = "y:smoothing"
"""The factor beside the site of the labels `y`."""


@dataclass(frozen=True)
class Likelihood:
    """The mean over the examples of `-w_y sum_c q_c log softmax(logits)_c`, in nats.

    `q = (1 - eps) e_y + eps / C` is the soft label. Class weights are those of the class `y` of the
    example and multiply all of its sum; PyTorch's would weigh each class in it by its own. The sum
    is divided by the number of examples and not by the sum of weights, so that its expectation
    does not depend on the batch size.

    Args:
        class_weights: `(C,)` positive powers of the likelihood of each class; ones by default.
        label_smoothing: `eps`, in `[0, 1)`.

    Raises:
        DataError: Class weights that are not positive and finite.
        ValueError: A label smoothing that is no number in `[0, 1)`.
    """

    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_weights", _checked_weights(self.class_weights))
        smoothing = number(self.label_smoothing, "label_smoothing", at_least=0, below=1)
        object.__setattr__(self, "label_smoothing", smoothing)

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """The mean negative log likelihood, 0-d, of logits `(N, C)` and labels `(N,)` int64.

        Raises:
            DataError: Labels of another shape, or of no integer dtype.
        """
        check_label_shape(y, tuple(logits.shape), "the likelihood")
        eps = self.label_smoothing
        if self.class_weights is None:
            return F.cross_entropy(logits, y, label_smoothing=eps)
        weights = self._weights(logits)
        if eps == 0:
            return F.cross_entropy(logits, y, weight=weights, reduction="sum") / len(y)
        each = F.cross_entropy(logits, y, label_smoothing=eps, reduction="none")
        return (weights[y] * each).sum() / len(y)

    def sample(self, logits: Tensor, y: Tensor | None, num_data: int) -> Tensor:
        """As a part of a Pyro program: labels `y` of logits `(..., N, C)`, in a plate `data`.

        Labels that are given are observed with their weights, and a factor makes them soft ones;
        the log densities add up to `-num_data` times the mean. Others are drawn from the softmax.

        Raises:
            DataError: Labels of another shape, of no integer dtype, or out of range.
            ValueError: `num_data` is no positive number.
        """
        if y is not None:
            check_label_shape(y, tuple(logits.shape[-2:]), "the model")
            check_labels(y, "the model", logits.shape[-1])
        number(num_data, "num_data", above=0)
        examples = logits.shape[-2]
        scale: float | Tensor = num_data / examples
        if self.class_weights is not None and y is not None:
            scale = scale * self._weights(logits)[y]
        with pyro.plate("data", examples), pyro.poutine.scale(scale=scale):
            labels: Tensor = pyro.sample("y", dist.Categorical(logits=logits), obs=y)
            if y is not None and self.label_smoothing:
                log_p = logits.log_softmax(-1)
                labels_of = y.expand(log_p.shape[:-1]).unsqueeze(-1)
                given = log_p.gather(-1, labels_of).squeeze(-1)
                pyro.factor(SMOOTHING_SITE, self.label_smoothing * (log_p.mean(-1) - given))
        return labels

    def check_classes(self, classes: int) -> None:
        """Raise `DataError` where there are class weights for another number of classes."""
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise DataError(
                f"{len(self.class_weights)} class weights for a network with {classes} outputs"
            )

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        weights = self.class_weights
        return {
            "class_weights": None if weights is None else list(weights),
            "label_smoothing": self.label_smoothing,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Likelihood:
        """The inverse of `to_dict`; keys that are not there have their defaults, others may be.

        Raises:
            DataError: Class weights that are not positive and finite.
            ValueError: A label smoothing that is no number in `[0, 1)`.
        """
        return cls(data.get("class_weights"), data.get("label_smoothing", 0.0))

    def _weights(self, logits: Tensor) -> Tensor:
        return torch.tensor(self.class_weights, dtype=logits.dtype, device=logits.device)


def _checked_weights(class_weights: Any) -> tuple[float, ...] | None:
    if class_weights is None:
        return None
    wrong = DataError(
        f"class_weights={class_weights!r} must be a sequence of positive finite numbers, one per "
        "class"
    )
    try:
        weights = torch.as_tensor(class_weights, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise wrong from error
    if weights.ndim != 1 or not bool((torch.isfinite(weights) & (weights > 0)).all()):
        raise wrong
    return tuple(weights.tolist())

"""Likelihoods as values: how labels are distributed, given the outputs of a network.

This file has the base class. `categorical.py` has the likelihood of classes, `bernoulli.py` that of
yes-or-no labels, and `targets.py` those of targets that are numbers.

Every example `i` has one label, or an array of labels: the tokens of a text, the pixels of an
image, several yes-or-no labels, several targets. Given the weights, the labels are independent, so
that `log p(y_i | x_i, W)` is a sum over them. Losses and log densities are those of examples; a
loss is a mean over examples, also where they have many labels.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bayes_htr._checks import number
from bayes_htr.errors import DataError
from bayes_htr.priors import Hyperparameter
from bayes_htr.priors.values import Value

TEMPERING_SITE = "y:tempering"
"""The name of the factor that a tempered likelihood has beside the site of the labels `y`."""

NO_VALUES: Mapping[str, Tensor] = {}


@dataclass(frozen=True, repr=False)
class Likelihood(Value, abstract=True):
    """Base class of all likelihoods.

    In its methods, `outputs` are those of the network, `(*left, N, ...)`: the dimensions to the
    left, `left` in number, are those of plates around the data, and most callers have none. `y` are
    labels as `checked` returns them, `(N, ...)`, and `values` the hyperparameters by name.
    """

    score_name: ClassVar[str] = "accuracy"
    """The name of the measure that `score` returns; histories have it after `train_` and `val_`."""

    has_classes: ClassVar[bool] = False
    """Whether labels are classes. The average of several predictive distributions is then a
    distribution of the same kind, whose outputs `averaged` returns."""

    @property
    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """The hyperparameters with hyperpriors, by name."""
        return {}

    def improper(self, y: Tensor) -> str | None:
        """Say why this is no density of these labels, as the beginning of a sentence.

        If it is not a density, MAP finds the mode of a penalised loss, and SVI and NUTS find the
        posterior that takes `exp(-loss)` for the likelihood (a generalised posterior). If it is a
        density, the result is `None`.
        """
        return None

    # Data and outputs

    @abstractmethod
    def checked(self, y: Any, name: str) -> Tensor:
        """Make labels a tensor without gradient, `(N, ...)`.

        Args:
            y: A tensor, an array, or something from which NumPy makes an array.
            name: The name of the data in errors.

        Raises:
            DataError: The labels do not suit this likelihood.
        """

    @abstractmethod
    def check_outputs(self, outputs: Any, count: int, name: str, y: Tensor | None = None) -> None:
        """Require outputs to have a shape that this likelihood takes and that fits the labels.

        Args:
            outputs: The outputs of the network, of any type.
            count: The number of examples `N`.
            name: The name of the data in errors.
            y: The labels of the examples, if there are any.

        Raises:
            DataError: The outputs have another form, or a label does not fit.
        """

    def check_range(self, y: Tensor, outputs: Tensor, name: str) -> None:
        """Require labels to be among those that the outputs describe, however many there are.

        Args:
            y: Labels `(M, ...)`.
            outputs: The outputs of other examples, `(N, ...)`.
            name: The name of the data in errors.

        Raises:
            DataError: There is a label that the outputs do not describe.
        """

    def doubt(self, outputs: Tensor, net: nn.Module) -> str | None:
        """Say in a sentence why outputs do not suit this likelihood; `None` if they do."""
        return None

    def cast(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        """Convert labels to the dtype in which they are scored, given that of the network."""
        return y.to(dtype)

    # Densities

    @abstractmethod
    def pointwise(
        self,
        outputs: Tensor,
        y: Tensor,
        values: Mapping[str, Tensor] = NO_VALUES,
        left: int = 0,
    ) -> Tensor:
        """Compute the log density of each label, `(*left, N, ...)`; 0 if it does not count."""

    @abstractmethod
    def of_labels(
        self, outputs: Tensor, values: Mapping[str, Tensor] = NO_VALUES, left: int = 0
    ) -> Any:
        """Return the distribution of the labels, with batch shape `(*left, N, ...)`."""

    def distribution(
        self, outputs: Tensor, values: Mapping[str, Tensor] = NO_VALUES, left: int = 0
    ) -> Any:
        """Return the Pyro distribution of the labels, with batch shape `(*left, N)`."""
        law = self.of_labels(outputs, values, left)
        dimensions = len(law.batch_shape) - left - 1
        # Independent makes a distribution of PyTorch, which Pyro cannot sample, one of Pyro's.
        return dist.Independent(law, dimensions) if dimensions or not callable(law) else law

    def class_log_probs(self, outputs: Tensor) -> Tensor | None:
        """Compute the log probabilities of classes, `(N, ..., C)`; `None` if there are none."""
        return None

    @abstractmethod
    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the sum over examples of how good their outputs are, 0-d.

        An example counts with the share of its labels that are right, or with its mean squared
        error.
        """

    def named_score(self, mean: float) -> float:
        """Return the number that the history shows, from the mean of `score` over examples."""
        return mean

    def counted(self, y: Tensor) -> Tensor:
        """Return which labels count, as a boolean tensor of the shape of `pointwise`."""
        return torch.ones_like(y, dtype=torch.bool)

    def log_prob(
        self,
        outputs: Tensor,
        y: Tensor,
        values: Mapping[str, Tensor] = NO_VALUES,
        left: int = 0,
    ) -> Tensor:
        """Compute the log likelihood of each example, `(*left, N)`, with weights and smoothing."""
        return sum_right(self.pointwise(outputs, y, values, left), left + 1)

    def mixture_pointwise(
        self, outputs: Sequence[Tensor], y: Tensor, values: Sequence[Mapping[str, Tensor]]
    ) -> Tensor:
        """Compute the log of the average of several predictive densities at each label, `(N, ...)`.

        Args:
            outputs: The outputs of each draw, `(N, ...)`.
            y: The labels.
            values: The hyperparameters of each draw.
        """
        if self.has_classes:
            return self.pointwise(self.averaged(outputs), y)
        pairs = zip(outputs, values, strict=True)
        each = torch.stack([self.pointwise(o, y, v) for o, v in pairs])
        return each.logsumexp(0) - math.log(len(each))

    def averaged(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return outputs that stand for the average prediction of several draws, `(N, ...)`."""
        return torch.stack(list(outputs)).mean(0)

    def mixture_score(self, outputs: Sequence[Tensor], y: Tensor) -> Tensor:
        """Compute the `score` of the average prediction of several draws."""
        return self.score(self.averaged(outputs), y)

    def __call__(
        self, outputs: Tensor, y: Tensor, values: Mapping[str, Tensor] = NO_VALUES
    ) -> Tensor:
        """Compute the mean negative log likelihood over examples, 0-d, in nats."""
        return -self.log_prob(outputs, y, values).sum() / len(y)

    def sample(
        self,
        outputs: Tensor,
        y: Tensor | None,
        num_data: float,
        values: Mapping[str, Tensor] = NO_VALUES,
        left: int = 0,
    ) -> Tensor:
        """Draw labels in a plate `data` of a Pyro program, or observe them as `y`.

        Log densities of observed labels add up to `num_data` times the mean over the examples.
        """
        number(num_data, "num_data", above=0)
        count = outputs.shape[left]
        with pyro.plate("data", count), pyro.poutine.scale(scale=num_data / count):
            law = self.distribution(outputs, values, left)
            if y is None:
                drawn: Tensor = pyro.sample("y", law)
                return drawn
            self._observe(law, outputs, y, values, left)
        return y

    def _observe(
        self, law: Any, outputs: Tensor, y: Tensor, values: Mapping[str, Tensor], left: int
    ) -> None:
        pyro.sample("y", law, obs=y)


def sum_right(values: Tensor, keep: int) -> Tensor:
    """Sum over all dimensions but the first `keep`."""
    return values.flatten(keep).sum(-1) if values.ndim > keep else values


def without_column(outputs: Tensor, left: int) -> Tensor:
    """Turn outputs `(*left, N, 1)` into `(*left, N)`; others stay as they are."""
    is_column = outputs.ndim == left + 2 and outputs.shape[-1] == 1
    return outputs.squeeze(-1) if is_column else outputs


def column_as_vector(y: Tensor) -> Tensor:
    """Turn labels `(N, 1)` into `(N,)`; others stay as they are."""
    return y.squeeze(1) if y.ndim == 2 and y.shape[1] == 1 else y


def check_real_outputs(outputs: Any, count: int, name: str, y: Tensor | None, what: str) -> None:
    """Require outputs `(N,)`, `(N, 1)` or `(N, D)` that have the shape of the labels.

    Args:
        outputs: The outputs of the network, of any type.
        count: The number of examples.
        name: The name of the data in errors.
        y: The labels, if there are any.
        what: A description of the outputs for errors.

    Raises:
        DataError: The outputs have another shape.
    """
    is_right = isinstance(outputs, Tensor) and outputs.ndim in (1, 2) and len(outputs) == count
    if not is_right:
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs)
        raise DataError(
            f"{name}: the network must return {what} of shape ({count},) or ({count}, D), not "
            f"{shape}"
        )
    shape = tuple(without_column(outputs, 0).shape)
    if y is not None and tuple(y.shape) != shape:
        raise DataError(
            f"{name}: labels of shape {tuple(y.shape)} do not fit outputs of shape "
            f"{tuple(outputs.shape)}: a network needs one output for each label; change its last "
            "layer or the labels"
        )

"""Likelihoods as values: how labels are distributed, given the outputs of a network.

`Categorical` is in `categorical.py`; here are the base class, `Bernoulli`, the normal law around
the outputs, and any distribution of Pyro that a callable makes.

Every example `i` has one label, or an array of labels: the tokens of a text, the pixels of an
image, several yes-or-no labels, several targets. Given the weights, the labels are independent, so
that `log p(y_i | x_i, W)` is a sum over them. Losses and log densities are those of examples; a
loss is a mean over examples, also where they have many labels.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayes_htr._checks import number
from bayes_htr.errors import DataError, PriorError
from bayes_htr.models.examples import as_tensor, reason_against_last_layer
from bayes_htr.priors import Hyperparameter, Normal
from bayes_htr.priors.law import Law
from bayes_htr.priors.values import Value

TEMPERING_SITE = "y:tempering"
"""The factor beside the site of the labels `y`, where the likelihood is a tempered one."""

SCALE = "likelihood:scale"
"""The name of the hyperparameter that is the standard deviation of `Normal` noise."""

NO_VALUES: Mapping[str, Tensor] = {}


@dataclass(frozen=True, repr=False)
class Likelihood(Value, abstract=True):
    """Base class of all likelihoods.

    In its methods, `outputs` are those of the network, `(*left, N, ...)`: the dimensions to the
    left, `left` in number, are those of plates around the data, and most callers have none. `y` are
    labels as `checked` returns them, `(N, ...)`, and `values` the hyperparameters by name.
    """

    score_name: ClassVar[str] = "accuracy"
    """What `score` measures, as histories name it after `train_` and `val_`."""

    @property
    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """The hyperparameters with hyperpriors, by name."""
        return {}

    def improper(self, y: Tensor) -> str | None:
        """Why this is no density of these labels, as the beginning of a sentence; else `None`.

        MAP is then the mode of a penalised loss, and SVI and NUTS find the posterior that takes
        `exp(-loss)` for a likelihood (a generalised posterior).
        """
        return None

    # Data and outputs

    @abstractmethod
    def checked(self, y: Any, name: str) -> Tensor:
        """Labels as a tensor without gradient, `(N, ...)`.

        Args:
            y: Labels: a tensor, an array, or what NumPy makes an array of.
            name: What errors call the data.

        Raises:
            DataError: They are no labels for this likelihood.
        """

    @abstractmethod
    def check_outputs(self, outputs: Any, count: int, name: str, y: Tensor | None = None) -> None:
        """Require outputs of a shape that this likelihood takes, which fits the labels.

        Args:
            outputs: What the network has returned.
            count: The number of examples `N`.
            name: What errors call the data.
            y: Their labels, if there are any.

        Raises:
            DataError: Something else, or a label that does not fit.
        """

    def check_range(self, y: Tensor, outputs: Tensor, name: str) -> None:
        """Require labels to be among those that outputs stand for, whatever their number.

        Args:
            y: Labels `(M, ...)`.
            outputs: Outputs of other examples, `(N, ...)`.
            name: What errors call the data.

        Raises:
            DataError: A label that the outputs do not have.
        """

    def doubt(self, outputs: Tensor, net: nn.Module) -> str | None:
        """Why outputs look unlike what this likelihood takes, as a sentence; else `None`."""
        return None

    def cast(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        """Labels in the dtype in which they are scored, for a network of the given dtype."""
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
        """The log density of each label, `(*left, N, ...)`; 0 for labels that do not count."""

    @abstractmethod
    def of_labels(
        self, outputs: Tensor, values: Mapping[str, Tensor] = NO_VALUES, left: int = 0
    ) -> Any:
        """The distribution of each label: batch shape `(*left, N, ...)`."""

    def distribution(
        self, outputs: Tensor, values: Mapping[str, Tensor] = NO_VALUES, left: int = 0
    ) -> Any:
        """The Pyro distribution of the labels: batch shape `(*left, N)`, an event per example."""
        law = self.of_labels(outputs, values, left)
        dimensions = len(law.batch_shape) - left - 1
        # Independent makes a distribution of PyTorch, which Pyro cannot sample, one of Pyro's.
        return dist.Independent(law, dimensions) if dimensions or not callable(law) else law

    def class_log_probs(self, outputs: Tensor) -> Tensor | None:
        """The log probabilities of classes, `(N, ..., C)`; `None` if labels are no classes."""
        return None

    @abstractmethod
    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        """How good the outputs are, summed over the examples, 0-d: right labels, or squared errors.

        An example with several labels counts as their mean.
        """

    def named_score(self, mean: float) -> float:
        """What the history shows, from the mean of `score` over examples."""
        return mean

    def counted(self, y: Tensor) -> Tensor:
        """Which labels count, a boolean tensor of the shape of `pointwise`."""
        return torch.ones_like(y, dtype=torch.bool)

    def log_prob(
        self,
        outputs: Tensor,
        y: Tensor,
        values: Mapping[str, Tensor] = NO_VALUES,
        left: int = 0,
    ) -> Tensor:
        """The log likelihood of each example, `(*left, N)`, with weights and smoothing."""
        return sum_right(self.pointwise(outputs, y, values, left), left + 1)

    def mixture_pointwise(
        self, outputs: Sequence[Tensor], y: Tensor, values: Sequence[Mapping[str, Tensor]]
    ) -> Tensor:
        """As `pointwise`, of the average of several predictive densities.

        Args:
            outputs: The outputs of each draw, `(N, ...)`.
            y: The labels.
            values: The hyperparameters of each draw.
        """
        pairs = zip(outputs, values, strict=True)
        each = torch.stack([self.pointwise(o, y, v) for o, v in pairs])
        return each.logsumexp(0) - math.log(len(each))

    def averaged(self, outputs: Sequence[Tensor]) -> Tensor:
        """Outputs that stand for the average prediction of several draws, `(N, ...)`."""
        return torch.stack(list(outputs)).mean(0)

    def mixture_score(self, outputs: Sequence[Tensor], y: Tensor) -> Tensor:
        """As `score`, of the average prediction of several draws."""
        return self.score(self.averaged(outputs), y)

    def __call__(
        self, outputs: Tensor, y: Tensor, values: Mapping[str, Tensor] = NO_VALUES
    ) -> Tensor:
        """The mean negative log likelihood over examples, 0-d, in nats."""
        return -self.log_prob(outputs, y, values).sum() / len(y)

    def sample(
        self,
        outputs: Tensor,
        y: Tensor | None,
        num_data: float,
        values: Mapping[str, Tensor] = NO_VALUES,
        left: int = 0,
    ) -> Tensor:
        """As a part of a Pyro program: labels in a plate `data`, drawn, or observed as `y`.

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


@dataclass(frozen=True, repr=False)
class Bernoulli(Likelihood):
    """Yes or no: `p(y = 1 | x, W) = sigmoid(output)`, for one label per example or several.

    The network returns logits `(N,)` or `(N, 1)` for labels `(N,)`, and `(N, L)` for labels
    `(N, L)`, which are independent given the logits. Labels are 0 and 1, or booleans; a fraction
    `q` between them is a soft label, with the likelihood `p^q (1 - p)^(1 - q)`.
    """

    def improper(self, y: Tensor) -> str | None:
        """As in the base: soft labels have no density."""
        return None if bool(((y == 0) | (y == 1)).all()) else "soft labels have no density"

    def checked(self, y: Any, name: str) -> Tensor:
        """As in the base: `(N,)` or `(N, L)`, each in [0, 1]."""
        y = _column_as_vector(as_tensor(y, f"{name} labels"))
        values = y.float() if y.dtype == torch.bool or not y.is_floating_point() else y
        if y.is_complex() or y.ndim not in (1, 2):
            raise DataError(
                f"{name}: labels of shape {tuple(y.shape)} and dtype {y.dtype} must be (N,) or "
                "(N, L), with 0 for no and 1 for yes"
            )
        wrong = values[~((values >= 0) & (values <= 1))]
        if len(wrong):
            raise DataError(
                f"{name}: label {wrong[0].item():g} is neither 0 nor 1 nor a probability; for "
                "classes 0, 1, 2, ... take htr.Categorical(), for numbers htr.Normal(scale=...)"
            )
        return values

    def check_outputs(self, outputs: Any, count: int, name: str, y: Tensor | None = None) -> None:
        """As in the base: logits `(N,)`, `(N, 1)` or `(N, L)`."""
        _check_real_outputs(outputs, count, name, y, "logits, one for each yes-or-no label,")

    def doubt(self, outputs: Tensor, net: nn.Module) -> str | None:
        """As in the base: a last layer whose outputs are no logits."""
        return reason_against_last_layer(net, "sigmoid", "label")

    def pointwise(
        self,
        outputs: Tensor,
        y: Tensor,
        values: Mapping[str, Tensor] = NO_VALUES,
        left: int = 0,
    ) -> Tensor:
        """As in the base."""
        logits, y = torch.broadcast_tensors(_without_column(outputs, left), y.to(outputs.dtype))
        return -F.binary_cross_entropy_with_logits(logits, y, reduction="none")

    def of_labels(
        self, outputs: Tensor, values: Mapping[str, Tensor] = NO_VALUES, left: int = 0
    ) -> Any:
        """As in the base."""
        return dist.Bernoulli(logits=_without_column(outputs, left), validate_args=False)

    def class_log_probs(self, outputs: Tensor) -> Tensor:
        """The log probabilities of no and yes, `(N, 2)` or `(N, L, 2)`."""
        logits = _without_column(outputs, 0)
        return torch.stack([F.logsigmoid(-logits), F.logsigmoid(logits)], dim=-1)

    def mixture_pointwise(
        self, outputs: Sequence[Tensor], y: Tensor, values: Sequence[Mapping[str, Tensor]]
    ) -> Tensor:
        """As in the base."""
        return self.pointwise(self.averaged(outputs), y)

    def averaged(self, outputs: Sequence[Tensor]) -> Tensor:
        """The logits of the average probabilities."""
        logits = torch.stack(list(outputs))
        return F.logsigmoid(logits).logsumexp(0) - F.logsigmoid(-logits).logsumexp(0)

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The share of right labels of each example, summed; a soft label counts as the nearer."""
        right = (_without_column(outputs.detach(), 0) > 0) == (y > 0.5)
        return right.double().flatten(1).mean(1).sum() if right.ndim > 1 else right.sum()


@dataclass(frozen=True, repr=False)
class NormalNoise(Likelihood, abstract=True):  # in files it is the law
    """Regression: targets are normal around the outputs, with one standard deviation for all.

    Users write it as the law `htr.Normal(scale=...)`, whose `loc` is the network's output. The
    network returns `(N,)` or `(N, 1)` for targets `(N,)`, and `(N, D)` for targets `(N, D)`.

    Args:
        law: The law. Its scale is a number, the known noise, or a law, the hyperprior of a noise
            that is learnt as the hyperparameter `likelihood:scale`.

    Raises:
        PriorError: A law with a `loc`, or a scale that is no number and no law.
    """

    law: Normal
    score_name: ClassVar[str] = "rmse"

    def __post_init__(self) -> None:
        if self.law.loc != 0.0:
            raise PriorError(
                f"likelihood={self.law!r}: the mean is the output of the network; leave out loc, "
                "as in htr.Normal(scale=0.1)"
            )
        if not isinstance(self.law.scale, float | Law):
            raise PriorError(
                f"likelihood={self.law!r}: the scale of the noise is a number, or a law if it is "
                "to be learnt, as in htr.Normal(scale=htr.HalfCauchy(1.0))"
            )

    def __repr__(self) -> str:
        return repr(self.law)

    def to_dict(self) -> dict[str, Any]:
        """That of the law."""
        return self.law.to_dict()

    @property
    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """The scale under its name, if it has a hyperprior."""
        scale = self.law.scale
        return {SCALE: Hyperparameter(SCALE, scale)} if isinstance(scale, Law) else {}

    def checked(self, y: Any, name: str) -> Tensor:
        """As in the base: finite numbers `(N,)` or `(N, D)`."""
        return _column_as_vector(_real_targets(y, name))

    def check_outputs(self, outputs: Any, count: int, name: str, y: Tensor | None = None) -> None:
        """As in the base: `(N,)`, `(N, 1)` or `(N, D)`."""
        _check_real_outputs(outputs, count, name, y, "one number for each target,")

    def pointwise(
        self,
        outputs: Tensor,
        y: Tensor,
        values: Mapping[str, Tensor] = NO_VALUES,
        left: int = 0,
    ) -> Tensor:
        """As in the base."""
        log_prob: Tensor = self.of_labels(outputs, values, left).log_prob(y)
        return log_prob

    def of_labels(
        self, outputs: Tensor, values: Mapping[str, Tensor] = NO_VALUES, left: int = 0
    ) -> Any:
        """As in the base."""
        mean = _without_column(outputs, left)
        scale = self.law.scale
        if isinstance(scale, float):
            return dist.Normal(mean, mean.new_tensor(scale), validate_args=False)
        sigma = values[SCALE].to(mean)
        if sigma.ndim:  # (*left, 1): a value for each place of the plates
            sigma = sigma.reshape(sigma.shape + (1,) * (mean.ndim - sigma.ndim))
        return dist.Normal(mean, sigma, validate_args=False)

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The mean squared error over the targets of each example, summed."""
        error = (_without_column(outputs.detach(), 0) - y).double().square()
        return error.sum() / max(1, error[:1].numel())

    def named_score(self, mean: float) -> float:
        """The root mean squared error."""
        return float(mean**0.5) if mean >= 0 else mean


@dataclass(frozen=True, repr=False)
class FromCallable(Likelihood, abstract=True):  # no file can name it
    """Any distribution: a callable takes the outputs to a distribution of Pyro or PyTorch.

    Its batch shape begins with that of the examples; dimensions after that are labels of one
    example. A file does not hold the callable: `htr.load(..., likelihood=)` is given it again.

    Args:
        make: The callable.
    """

    make: Callable[[Tensor], Any]
    score_name: ClassVar[str] = "rmse"

    def __repr__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """The name of the callable."""
        return str(getattr(self.make, "__qualname__", type(self.make).__name__))

    def to_dict(self) -> dict[str, Any]:
        """The callable's name, from which it cannot be made again."""
        return {"type": "FromCallable", "make": self.name}

    def checked(self, y: Any, name: str) -> Tensor:
        """As in the base: finite numbers."""
        return _real_targets(y, name)

    def check_outputs(self, outputs: Any, count: int, name: str, y: Tensor | None = None) -> None:
        """As in the base: whatever the callable takes to a distribution of the labels."""
        what = f"{name}: likelihood={self.name}"
        if not isinstance(outputs, Tensor):
            raise DataError(f"{name}: the network must return a tensor, not {type(outputs)}")
        try:
            law = self.make(outputs)
            shape = tuple(law.batch_shape + law.event_shape)
        except Exception as error:  # the user's callable may raise anything
            raise DataError(
                f"{what} makes no distribution of outputs of shape {tuple(outputs.shape)} "
                f"({type(error).__name__}: {error}); return one such as dist.Poisson(outputs.exp())"
            ) from error
        if tuple(law.batch_shape[:1]) != (count,):
            raise DataError(
                f"{what} makes a distribution of batch shape {tuple(law.batch_shape)} for {count} "
                "examples; the batch shape must begin with their number"
            )
        if y is None:
            return
        if tuple(y.shape) != shape:
            raise DataError(
                f"{what} makes a distribution of labels of shape {shape}, and they have shape "
                f"{tuple(y.shape)}; reshape the outputs or the labels, as in outputs.squeeze(-1)"
            )
        inside = law.support.check(y.to(outputs.dtype))
        if not bool(inside.all()):
            raise DataError(
                f"{what} makes a {type(law).__name__}, and {int((~inside).sum())} labels are not "
                f"in its support, {law.support}; clean the labels or take another distribution"
            )

    def pointwise(
        self,
        outputs: Tensor,
        y: Tensor,
        values: Mapping[str, Tensor] = NO_VALUES,
        left: int = 0,
    ) -> Tensor:
        """As in the base."""
        log_prob: Tensor = self.make(outputs).log_prob(y)
        return log_prob

    def of_labels(
        self, outputs: Tensor, values: Mapping[str, Tensor] = NO_VALUES, left: int = 0
    ) -> Any:
        """As in the base."""
        return self.make(outputs)

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The mean squared error of the distribution's mean, summed; NaN if it has none."""
        return self.mixture_score([outputs], y)

    def mixture_score(self, outputs: Sequence[Tensor], y: Tensor) -> Tensor:
        """As in the base."""
        try:
            mean = torch.stack([self.make(each.detach()).mean for each in outputs]).mean(0)
        except (NotImplementedError, AttributeError):
            return torch.tensor(torch.nan, dtype=torch.float64, device=y.device)
        error = (mean - y).double().square()
        return error.sum() / max(1, error[:1].numel())

    def named_score(self, mean: float) -> float:
        """The root mean squared error."""
        return float(mean**0.5) if mean >= 0 else mean


def sum_right(values: Tensor, keep: int) -> Tensor:
    """The sum over all dimensions but the first `keep`."""
    return values.flatten(keep).sum(-1) if values.ndim > keep else values


def _without_column(outputs: Tensor, left: int) -> Tensor:
    """Outputs `(*left, N, 1)` as `(*left, N)`."""
    is_column = outputs.ndim == left + 2 and outputs.shape[-1] == 1
    return outputs.squeeze(-1) if is_column else outputs


def _column_as_vector(y: Tensor) -> Tensor:
    return y.squeeze(1) if y.ndim == 2 and y.shape[1] == 1 else y


def _real_targets(y: Any, name: str) -> Tensor:
    y = as_tensor(y, f"{name} targets")
    if y.is_complex() or y.ndim < 1:
        raise DataError(
            f"{name}: targets of shape {tuple(y.shape)} and dtype {y.dtype} must be real numbers, "
            "(N,) or (N, D)"
        )
    y = y if y.is_floating_point() else y.to(torch.get_default_dtype())
    if not bool(torch.isfinite(y).all()):
        first = tuple(int(i) for i in (~torch.isfinite(y)).nonzero()[0])
        raise DataError(
            f"{name}: {int((~torch.isfinite(y)).sum())} targets are not finite, the first "
            f"{y[first].item()} at {first}; clean the data"
        )
    return y


def _check_real_outputs(outputs: Any, count: int, name: str, y: Tensor | None, what: str) -> None:
    """Require outputs `(N,)`, `(N, 1)` or `(N, D)`, of the shape of the labels."""
    is_right = isinstance(outputs, Tensor) and outputs.ndim in (1, 2) and len(outputs) == count
    if not is_right:
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs)
        raise DataError(
            f"{name}: the network must return {what} of shape ({count},) or ({count}, D), not "
            f"{shape}"
        )
    shape = tuple(_without_column(outputs, 0).shape)
    if y is not None and tuple(y.shape) != shape:
        raise DataError(
            f"{name}: labels of shape {tuple(y.shape)} do not fit outputs of shape "
            f"{tuple(outputs.shape)}: a network needs one output for each label; change its last "
            "layer or the labels"
        )

"""Likelihoods of targets: normal noise around the outputs, and any distribution of a callable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from bayes_htr.errors import DataError, PriorError
from bayes_htr.models.examples import as_tensor
from bayes_htr.models.likelihood import (
    NO_VALUES,
    Likelihood,
    check_real_outputs,
    column_as_vector,
    without_column,
)
from bayes_htr.priors import Hyperparameter, Normal
from bayes_htr.priors.law import Law

SCALE = "likelihood:scale"
"""The name of the hyperparameter that is the standard deviation of `Normal` noise."""


@dataclass(frozen=True, repr=False)
class NormalNoise(Likelihood, abstract=True):  # in files it is the law
    """Regression: targets are normal around the outputs, with one standard deviation for all.

    Users write it as the law `htr.Normal(scale=...)`, whose `loc` is the network's output. The
    network returns `(N,)` or `(N, 1)` for targets `(N,)`, and `(N, D)` for targets `(N, D)`.

    Args:
        law: The law. Its scale is a number, the known noise, or a law, the hyperprior of a noise
            that is learnt as the hyperparameter `likelihood:scale`.

    Raises:
        PriorError: The law has a `loc`, or its scale is neither a number nor a law.
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
        """Return the law as plain data, since that is what users have written."""
        return self.law.to_dict()

    @property
    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """The scale under its name, if it has a hyperprior."""
        scale = self.law.scale
        return {SCALE: Hyperparameter(SCALE, scale)} if isinstance(scale, Law) else {}

    def checked(self, y: Any, name: str) -> Tensor:
        """Make targets `(N,)` or `(N, D)` a tensor, and require finite numbers."""
        return column_as_vector(_real_targets(y, name))

    def check_outputs(self, outputs: Any, count: int, name: str, y: Tensor | None = None) -> None:
        """Require outputs `(N,)`, `(N, 1)` or `(N, D)`, which fit the targets."""
        check_real_outputs(outputs, count, name, y, "one number for each target,")

    def pointwise(
        self,
        outputs: Tensor,
        y: Tensor,
        values: Mapping[str, Tensor] = NO_VALUES,
        left: int = 0,
    ) -> Tensor:
        log_prob: Tensor = self.of_labels(outputs, values, left).log_prob(y)
        return log_prob

    def of_labels(
        self, outputs: Tensor, values: Mapping[str, Tensor] = NO_VALUES, left: int = 0
    ) -> Any:
        mean = without_column(outputs, left)
        scale = self.law.scale
        if isinstance(scale, float):
            return dist.Normal(mean, mean.new_tensor(scale), validate_args=False)
        sigma = values[SCALE].to(mean)
        if sigma.ndim:  # (*left, 1): a value for each place of the plates
            sigma = sigma.reshape(sigma.shape + (1,) * (mean.ndim - sigma.ndim))
        return dist.Normal(mean, sigma, validate_args=False)

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the mean squared error over the targets of each example, summed."""
        error = (without_column(outputs.detach(), 0) - y).double().square()
        return error.sum() / max(1, error[:1].numel())

    def named_score(self, mean: float) -> float:
        """Return the root mean squared error."""
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
        """Return the name of the callable, from which it cannot be made again."""
        return {"type": "FromCallable", "make": self.name}

    def checked(self, y: Any, name: str) -> Tensor:
        """Make targets a tensor, and require finite numbers."""
        return _real_targets(y, name)

    def check_outputs(self, outputs: Any, count: int, name: str, y: Tensor | None = None) -> None:
        """Require outputs that the callable takes to a distribution of the labels."""
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
        log_prob: Tensor = self.make(outputs).log_prob(y)
        return log_prob

    def of_labels(
        self, outputs: Tensor, values: Mapping[str, Tensor] = NO_VALUES, left: int = 0
    ) -> Any:
        return self.make(outputs)

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the mean squared error of the distribution's mean, summed; NaN if it has none."""
        return self.mixture_score([outputs], y)

    def mixture_score(self, outputs: Sequence[Tensor], y: Tensor) -> Tensor:
        try:
            mean = torch.stack([self.make(each.detach()).mean for each in outputs]).mean(0)
        except (NotImplementedError, AttributeError):
            return torch.tensor(torch.nan, dtype=torch.float64, device=y.device)
        error = (mean - y).double().square()
        return error.sum() / max(1, error[:1].numel())

    def named_score(self, mean: float) -> float:
        """Return the root mean squared error."""
        return float(mean**0.5) if mean >= 0 else mean


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

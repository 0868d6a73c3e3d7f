"""The likelihood of yes-or-no labels given logits, one for an example or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayes_htr.errors import DataError
from bayes_htr.models.examples import as_tensor, reason_against_last_layer
from bayes_htr.models.likelihood import (
    NO_VALUES,
    Likelihood,
    check_real_outputs,
    column_as_vector,
    without_column,
)


@dataclass(frozen=True, repr=False)
class Bernoulli(Likelihood):
    """Yes or no: `p(y = 1 | x, W) = sigmoid(output)`, for one label per example or several.

    The network returns logits `(N,)` or `(N, 1)` for labels `(N,)`, and `(N, L)` for labels
    `(N, L)`, which are independent given the logits. Labels are 0 and 1, or booleans; a fraction
    `q` between them is a soft label, with the likelihood `p^q (1 - p)^(1 - q)`.
    """

    has_classes: ClassVar[bool] = True

    def improper(self, y: Tensor) -> str | None:
        """Say that soft labels have no density, if there are any."""
        return None if bool(((y == 0) | (y == 1)).all()) else "soft labels have no density"

    def checked(self, y: Any, name: str) -> Tensor:
        """Make labels `(N,)` or `(N, L)` a tensor, and require each to lie in [0, 1]."""
        y = column_as_vector(as_tensor(y, f"{name} labels"))
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
        """Require logits `(N,)`, `(N, 1)` or `(N, L)`, which fit the labels."""
        check_real_outputs(outputs, count, name, y, "logits, one for each yes-or-no label,")

    def doubt(self, outputs: Tensor, net: nn.Module) -> str | None:
        """Say in a sentence that the outputs of the last layer are not logits, if so."""
        return reason_against_last_layer(net, "sigmoid", "label")

    def pointwise(
        self,
        outputs: Tensor,
        y: Tensor,
        values: Mapping[str, Tensor] = NO_VALUES,
        left: int = 0,
    ) -> Tensor:
        logits, y = torch.broadcast_tensors(without_column(outputs, left), y.to(outputs.dtype))
        return -F.binary_cross_entropy_with_logits(logits, y, reduction="none")

    def of_labels(
        self, outputs: Tensor, values: Mapping[str, Tensor] = NO_VALUES, left: int = 0
    ) -> Any:
        return dist.Bernoulli(logits=without_column(outputs, left), validate_args=False)

    def class_log_probs(self, outputs: Tensor) -> Tensor:
        """Return the log probabilities of no and yes, `(N, 2)` or `(N, L, 2)`."""
        logits = without_column(outputs, 0)
        return torch.stack([F.logsigmoid(-logits), F.logsigmoid(logits)], dim=-1)

    def averaged(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the logits of the average probabilities."""
        logits = torch.stack(list(outputs))
        return F.logsigmoid(logits).logsumexp(0) - F.logsigmoid(-logits).logsumexp(0)

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the sum over examples of the share of right labels.

        A soft label counts as the nearer of 0 and 1.
        """
        right = (without_column(outputs.detach(), 0) > 0) == (y > 0.5)
        return right.double().flatten(1).mean(1).sum() if right.ndim > 1 else right.sum()

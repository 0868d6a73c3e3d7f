"""The likelihood of class labels given logits: `prod_i prod_c p(c | x_i, W)^(w_{y_i} q_ic)`.

If `q` is the label alone and `w` is 1, this is the ordinary likelihood. With class weights or soft
labels it is tempered: it need not sum to 1 over the labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayes_htr._checks import number
from bayes_htr.errors import DataError
from bayes_htr.models.examples import (
    as_tensor,
    check_class_labels,
    check_labels,
    reason_against_outputs,
)
from bayes_htr.models.likelihood import NO_VALUES, TEMPERING_SITE, Likelihood, sum_right


@dataclass(frozen=True, repr=False)
class Categorical(Likelihood):
    """Classes: `p(y = c | x, W) = softmax(outputs)_c`, for one label per example or several.

    The network returns logits `(N, C)` for labels `(N,)`; `(N, T, C)` for labels `(N, T)`, as of
    tokens; or `(N, C, H, W)` for labels `(N, H, W)`, as of pixels. Labels are whole numbers from 0
    to `C - 1`. Soft labels are probabilities of the shape of the logits with the classes last, such
    as `(N, C)`, with the likelihood `prod_c p(c | x, W)^(q_c)`.

    The loss of a batch is the mean over examples of `-w_y sum_c q_c log softmax(logits)_c`, in
    nats, `q = (1 - eps) e_y + eps / C` with label smoothing. The weight of the label's class `y`
    multiplies the whole sum over `c` (for a soft label, the mean weight under the label); PyTorch
    instead multiplies each term of this sum by the weight of its own class `c`. The sum over
    examples is divided by their number and not by the sum of weights, so that its expectation does
    not depend on the batch size.

    Args:
        class_weights: `(C,)` positive powers of the likelihood of each class; ones by default.
        label_smoothing: `eps`, in `[0, 1)`.
        ignore_index: The number that stands for a missing label, such as -100 for padding. Such
            labels add nothing to likelihood and scores.
        class_dim: The dimension of the logits that holds the classes. By default it is the last of
            two or three dimensions, and dimension 1 of four or more.

    Raises:
        DataError: A class weight is not positive or not finite.
        ValueError: The label smoothing is no number in `[0, 1)`, or another setting is no whole
            number.
    """

    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    ignore_index: int | None = None
    class_dim: int | None = None
    has_classes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_weights", _checked_weights(self.class_weights))
        smoothing = number(self.label_smoothing, "label_smoothing", at_least=0, below=1)
        object.__setattr__(self, "label_smoothing", smoothing)
        for name in ("ignore_index", "class_dim"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise ValueError(f"{name}={value!r} must be a whole number or None")
        if self.class_dim == 0:
            raise ValueError("class_dim=0 is the dimension of the examples; classes have another")

    @property
    def is_tempered(self) -> bool:
        """Whether class weights or label smoothing change the likelihood."""
        return self.class_weights is not None or self.label_smoothing > 0

    def improper(self, y: Tensor) -> str | None:
        if self.class_weights is not None:
            return "class weights are powers of the likelihood"
        if self.label_smoothing:
            return "label smoothing mixes the labels"
        return "soft labels have no density" if y.is_floating_point() else None

    # Data and outputs

    def checked(self, y: Any, name: str) -> Tensor:
        """Make labels a tensor: whole numbers, or probabilities with the classes last.

        Raises:
            DataError: The labels are words or negative, or neither whole numbers nor probabilities.
        """
        y = as_tensor(y, f"{name} labels")
        if y.is_floating_point() and y.ndim > 1:
            return _checked_soft(y, name)
        check_class_labels(y, name)
        check_labels(y, name, ignore_index=self.ignore_index)
        return y

    def cast(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        """Return class labels in int64, or soft labels in the network's dtype."""
        return y.to(dtype if y.is_floating_point() else torch.int64)

    def check_outputs(self, outputs: Any, count: int, name: str, y: Tensor | None = None) -> None:
        """Require logits `(N, C)`, `(N, T, C)` or `(N, C, H, W)`, which fit the labels.

        Raises:
            DataError: The outputs have another form, a label belongs to no class, or the number of
                class weights is not that of the classes.
        """
        is_right = isinstance(outputs, Tensor) and outputs.ndim >= 2 and len(outputs) == count
        if not is_right or self._dim(outputs, 0) >= outputs.ndim:
            shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs)
            raise DataError(
                f"{name}: the network must return logits of shape ({count}, classes), not "
                f"{shape}; tokens and pixels have dimensions of their own"
            )
        logits = self.logits(outputs)
        classes = logits.shape[-1]
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise DataError(
                f"{len(self.class_weights)} class weights for a network with {classes} outputs"
            )
        if y is None:
            return
        expected = tuple(logits.shape if y.is_floating_point() else logits.shape[:-1])
        if tuple(y.shape) != expected:
            raise DataError(
                f"{name}: labels of shape {tuple(y.shape)} do not fit logits of shape "
                f"{tuple(outputs.shape)}, whose dimension {self._dim(outputs, 0)} is taken for "
                f"that of {classes} classes; labels must be {expected}{_hint(y, outputs)}"
            )
        self.check_range(y, outputs, name)

    def check_range(self, y: Tensor, outputs: Tensor, name: str) -> None:
        """Require labels from 0 to `C - 1`."""
        if not y.is_floating_point():
            classes = self.logits(outputs).shape[-1]
            check_labels(y, name, classes, ignore_index=self.ignore_index)

    def doubt(self, outputs: Tensor, net: nn.Module) -> str | None:
        """Say in a sentence that outputs are probabilities or otherwise not logits, if so."""
        logits = self.logits(outputs)
        return reason_against_outputs(logits.reshape(-1, logits.shape[-1]), net)

    def logits(self, outputs: Tensor, left: int = 0) -> Tensor:
        """Return the logits with the classes last, `(*left, N, ..., C)`."""
        if self.class_dim is None and outputs.ndim - left < 4:
            return outputs
        dim = self._dim(outputs, left)
        return outputs if dim == outputs.ndim - 1 else outputs.movedim(dim, -1)

    def _dim(self, outputs: Tensor, left: int) -> int:
        """Return the dimension of the classes, counted from the left."""
        own = outputs.ndim - left
        if self.class_dim is None:
            return left + (1 if own >= 4 else own - 1)
        return left + (self.class_dim if self.class_dim > 0 else own + self.class_dim)

    # Densities

    def counted(self, y: Tensor) -> Tensor:
        """Return which labels count: all but those with `ignore_index`."""
        if y.is_floating_point():
            return torch.ones(y.shape[:-1], dtype=torch.bool, device=y.device)
        if self.ignore_index is None:
            return torch.ones_like(y, dtype=torch.bool)
        return y != self.ignore_index

    def pointwise(
        self,
        outputs: Tensor,
        y: Tensor,
        values: Mapping[str, Tensor] = NO_VALUES,
        left: int = 0,
    ) -> Tensor:
        """Compute the log density of each label without weights and smoothing."""
        return self._each(self.logits(outputs, left).log_softmax(-1), y)

    def log_prob(
        self,
        outputs: Tensor,
        y: Tensor,
        values: Mapping[str, Tensor] = NO_VALUES,
        left: int = 0,
    ) -> Tensor:
        """Compute the log likelihood of each example with class weights and label smoothing."""
        log_p = self.logits(outputs, left).log_softmax(-1)
        each = self._each(log_p, y)
        eps = self.label_smoothing
        if eps:
            mean = torch.where(self.counted(y), log_p.mean(-1), 0.0)
            each = (1 - eps) * each + eps * mean
        if self.class_weights is not None:
            w = self._weights(log_p)
            each = each * (y.to(w) @ w if y.is_floating_point() else w[self._clamped(y)])
        return sum_right(each, left + 1)

    def _each(self, log_p: Tensor, y: Tensor) -> Tensor:
        """Return the log probability of each label.

        It is taken from the log probabilities of the classes, `(*left, N, ..., C)`.
        """
        if y.is_floating_point():
            return (y.to(log_p) * log_p).sum(-1)
        return self._at_labels(log_p, y)

    def averaged(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the logarithms of the average probabilities, of the shape of the outputs."""
        dim = self._dim(outputs[0], 0)
        log_p = torch.stack([each.log_softmax(dim) for each in outputs])
        return log_p.logsumexp(0) - math.log(len(log_p))

    def __call__(
        self, outputs: Tensor, y: Tensor, values: Mapping[str, Tensor] = NO_VALUES
    ) -> Tensor:
        """Return the mean negative log likelihood over examples, 0-d.

        Raises:
            DataError: The labels have another shape, or no integer dtype.
        """
        logits = self.logits(outputs)
        if y.is_floating_point() and y.shape == logits.shape:
            return super().__call__(outputs, y, values)
        eps, count = self.label_smoothing, len(y)
        if y.shape != logits.shape[:-1]:
            check_class_labels(y, "the likelihood")
            raise DataError(
                f"the likelihood: labels of shape {tuple(y.shape)} do not fit logits of shape "
                f"{tuple(outputs.shape)}"
            )
        ignored = -100 if self.ignore_index is None else self.ignore_index
        logits, y = logits.reshape(-1, logits.shape[-1]), y.reshape(-1)
        if self.class_weights is None:
            if len(y) == count and self.ignore_index is None:
                return F.cross_entropy(logits, y, label_smoothing=eps)
            options: dict[str, Any] = {"label_smoothing": eps, "ignore_index": ignored}
            return F.cross_entropy(logits, y, reduction="sum", **options) / count
        weights = self._weights(logits)
        options = {"ignore_index": ignored}
        if eps == 0:
            total = F.cross_entropy(logits, y, weight=weights, reduction="sum", **options)
            return total / count
        each = F.cross_entropy(logits, y, label_smoothing=eps, reduction="none", **options)
        return (weights[self._clamped(y)] * each).sum() / count

    def of_labels(
        self, outputs: Tensor, values: Mapping[str, Tensor] = NO_VALUES, left: int = 0
    ) -> Any:
        return dist.Categorical(logits=self.logits(outputs, left), validate_args=False)

    def class_log_probs(self, outputs: Tensor) -> Tensor:
        """Return the log probabilities of the classes, `(N, ..., C)`."""
        return self.logits(outputs).log_softmax(-1)

    def _observe(
        self, law: Any, outputs: Tensor, y: Tensor, values: Mapping[str, Tensor], left: int
    ) -> None:
        if y.is_floating_point():
            pyro.factor(TEMPERING_SITE, self.log_prob(outputs, y, values, left))
            return
        if self.ignore_index is not None:
            each = self.of_labels(outputs, values, left)
            law = each.mask(self.counted(y)).to_event(y.ndim - 1)
        pyro.sample("y", law, obs=self._clamped(y))
        if self.is_tempered:
            plain = replace(self, class_weights=None, label_smoothing=0.0)
            difference = self.log_prob(outputs, y, values, left) - plain.log_prob(
                outputs, y, values, left
            )
            pyro.factor(TEMPERING_SITE, difference)

    def score(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the sum over examples of the share of right labels.

        A soft label counts as its largest class.
        """
        predicted = self.logits(outputs.detach()).argmax(-1)
        right = predicted == (y.argmax(-1) if y.is_floating_point() else y)
        if right.ndim == 1 and self.ignore_index is None:
            return right.sum()
        counted = self.counted(y)
        right, counted = (right & counted).flatten(1), counted.flatten(1)
        return (right.sum(1).double() / counted.sum(1).clamp_min(1)).sum()

    def _at_labels(self, log_p: Tensor, y: Tensor) -> Tensor:
        """Return the log probabilities of labels, `(*left, N, ...)`.

        They are 0 where the labels are to be ignored.
        """
        labels = self._clamped(y).expand(log_p.shape[:-1]).unsqueeze(-1)
        given = log_p.gather(-1, labels).squeeze(-1)
        return given if self.ignore_index is None else torch.where(self.counted(y), given, 0.0)

    def _clamped(self, y: Tensor) -> Tensor:
        """Replace labels that are to be ignored by the class 0."""
        return y if self.ignore_index is None else torch.where(self.counted(y), y, 0)

    def _weights(self, like: Tensor) -> Tensor:
        return torch.tensor(self.class_weights, dtype=like.dtype, device=like.device)


def _checked_soft(y: Tensor, name: str) -> Tensor:
    """Require soft labels to be probabilities that sum to 1 over the last dimension.

    Raises:
        DataError: Labels are negative, or sum to something else.
    """
    sums = y.sum(-1)
    if bool((y >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all()):
        return y
    raise DataError(
        f"{name}: labels of shape {tuple(y.shape)} and dtype {y.dtype} are taken for soft labels, "
        f"and must be probabilities that sum to 1 over the classes; the first sums to "
        f"{sums.flatten()[0].item():g}. Real-valued targets need another likelihood, as in "
        "htr.BayesianModel(net, priors, likelihood=htr.Normal(scale=htr.HalfCauchy(1.0)))"
    )


def _hint(y: Tensor, outputs: Tensor) -> str:
    if y.ndim == 2 and y.shape[1] == 1 and outputs.ndim == 2:
        return "; take labels.squeeze(1)"
    if tuple(y.shape) == tuple(outputs.shape) and not y.is_floating_point():
        return "; take labels.argmax(1), or htr.Bernoulli() for several yes-or-no labels"
    if outputs.ndim > 2 and y.ndim == outputs.ndim - 1:
        return "; or set class_dim= of htr.Categorical"
    return ""


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

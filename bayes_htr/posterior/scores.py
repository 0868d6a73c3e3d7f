"""How good predictions are: proper scores, calibration, and detection of foreign examples.

A standard error says how much a score would vary if other test examples had been drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

from bayes_htr._printing import Printable, add_row, compact_table
from bayes_htr._terminal import plural
from bayes_htr.models import Bernoulli, Categorical, Likelihood
from bayes_htr.posterior.mixture_prediction import MixturePrediction
from bayes_htr.posterior.prediction import Prediction

ECE_BINS = 15
"""The number of bins of equal width by which the calibration error is computed."""

LEVELS = (0.5, 0.9, 0.95)
"""The probabilities of the intervals whose coverage is measured."""


@dataclass(frozen=True)
class Score:
    """A score with its standard error.

    Attributes:
        value: The score.
        error: The standard error, which says how much the score would vary if other examples had
            been drawn; NaN where it is not known.
    """

    value: float
    error: float


class Scores(Printable, dict[str, float]):
    """Scores by name: a dictionary of numbers that prints as a table.

    Args:
        scores: The scores.
        standard_errors: The standard errors of those scores that have one.
        num_examples: The number of test examples.

    Attributes:
        standard_errors: The standard errors by name of the score; they are those of the choice of
            test examples, not of the seed of the fit.
        num_examples: The number of test examples.
    """

    def __init__(
        self, scores: Mapping[str, float], standard_errors: Mapping[str, float], num_examples: int
    ) -> None:
        super().__init__(scores)
        self.standard_errors = dict(standard_errors)
        self.num_examples = num_examples

    @classmethod
    def of(cls, scores: Mapping[str, Score], num_examples: int) -> Scores:
        """Return the numbers of measured scores, without standard errors that are NaN."""
        values = {name: score.value for name, score in scores.items()}
        errors = {name: score.error for name, score in scores.items()}
        known = {name: error for name, error in errors.items() if not math.isnan(error)}
        return cls(values, known, num_examples)

    def __repr__(self) -> str:
        return str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self), self.standard_errors, self.num_examples)

    def parts(self, width: int) -> Sequence[Table | str]:
        """Return a row for each score, with as many digits as the standard error leaves."""
        table = compact_table("score", "value", "standard error")
        for name, value in self.items():
            error = self.standard_errors.get(name, math.nan)
            digits = 4
            if math.isfinite(error) and error > 0:
                digits = min(6, max(0, 1 - math.floor(math.log10(error))))
            shown = f"{error:.{digits}f}" if math.isfinite(error) else ""
            add_row(table, [name, f"{value:.{digits}f}", shown])
        return [table, plural(self.num_examples, "test example")]


def scores(
    prediction: Prediction | MixturePrediction, y: Tensor, likelihood: Likelihood | None = None
) -> dict[str, float]:
    """Return the scores of `measured`, without their standard errors."""
    return {name: score.value for name, score in measured(prediction, y, likelihood).items()}


def measured(
    prediction: Prediction | MixturePrediction, y: Tensor, likelihood: Likelihood | None = None
) -> dict[str, Score]:
    """Score predictions against labels by what suits the likelihood, with standard errors.

    Each score is a mean of one number per label, or a smooth function of such a mean. Where an
    example has several labels, the score is a ratio of two sums over examples, and its standard
    error is that of the linearised ratio (Cochran 1977, *Sampling Techniques*, section 6.3), so
    that labels of one example may depend on each other.

    Args:
        prediction: The prediction of `N` examples.
        y: The labels of these examples, `(N, ...)`.
        likelihood: The likelihood; `Categorical()` by default.

    Returns:
        The scores of `class_scores`, `yes_or_no_scores` or `target_scores`.
    """
    if isinstance(prediction, MixturePrediction):
        return target_scores(prediction, y)
    if isinstance(likelihood, Bernoulli):
        return yes_or_no_scores(prediction, y)
    categorical = likelihood if isinstance(likelihood, Categorical) else Categorical()
    return class_scores(prediction, y, categorical.counted(y))


def class_scores(prediction: Prediction, y: Tensor, counted: Tensor) -> dict[str, Score]:
    """Score probabilities of classes; each label counts alike, where an example has several.

    Args:
        prediction: The prediction, with `log_probs` `(N, ..., C)`.
        y: Labels `(N, ...)`, or soft labels `(N, ..., C)`.
        counted: A mask of the labels that count, `(N, ...)`.

    Returns:
        `accuracy`, in [0, 1]; `nll`, the negative log likelihood in nats per label; `ece`, the
        expected calibration error with 15 bins of equal width and the L1 norm (Guo et al. 2017);
        `brier`, the mean over labels of the sum over classes of squared differences (Brier 1950),
        in [0, 2]. A soft label is right where its most probable class is.
    """
    examples = _Examples(counted.nonzero()[:, 0], len(counted))
    log_probs = prediction.log_probs[counted].double()
    y = y[counted]
    probs, is_soft = log_probs.exp(), y.is_floating_point()
    correct = log_probs.argmax(1) == (y.argmax(1) if is_soft else y)
    given = y.double() if is_soft else F.one_hot(y, probs.shape[1])
    nll = F.nll_loss(log_probs, y, reduction="none") if not is_soft else -(given * log_probs).sum(1)
    return {
        "accuracy": examples.mean(correct),
        "nll": examples.mean(nll),
        "ece": examples.mean(_miscalibration(probs.amax(1), correct)),
        "brier": examples.mean((probs - given).square().sum(1)),
    }


def yes_or_no_scores(prediction: Prediction, y: Tensor) -> dict[str, Score]:
    """Score probabilities of yes-or-no labels; means over labels, where an example has several.

    Args:
        prediction: The prediction, with `log_probs` `(N, 2)` or `(N, L, 2)`.
        y: Labels `(N,)` or `(N, L)` in [0, 1].

    Returns:
        `accuracy`, in [0, 1]; `nll`, in nats per label; `brier`, the mean squared difference of the
        probability of yes, in [0, 1]; `ece`, the expected calibration error of that probability
        with 15 bins of equal width, the mean over the labels; with several labels also `ece:0`,
        `ece:1`, ... of each.
    """
    log_probs, y = prediction.log_probs.double(), y.double()
    no, yes = log_probs.unbind(-1)
    probs = yes.exp()
    columns = zip(probs.reshape(len(y), -1).T, y.reshape(len(y), -1).T, strict=True)
    errors = torch.stack([_miscalibration(p, label) for p, label in columns], dim=1)
    nll = -torch.where(y > 0, y * yes, 0.0) - torch.where(y < 1, (1 - y) * no, 0.0)
    examples = _Examples.of(y)
    result = {
        "accuracy": examples.mean((yes > no) == (y > 0.5)),
        "nll": examples.mean(nll),
        "ece": examples.mean(errors),
        "brier": examples.mean((probs - y).square()),
    }
    if y.ndim > 1:
        of_label = _Examples.of(y[:, 0])
        result |= {f"ece:{i}": of_label.mean(error) for i, error in enumerate(errors.T)}
    return result


def target_scores(prediction: MixturePrediction, y: Tensor) -> dict[str, Score]:
    """Score the predictive distribution of targets; each target counts alike.

    Args:
        prediction: The prediction.
        y: The targets, `(N,)` or `(N, D)`.

    Returns:
        `rmse`, of the mean; `nll`, in nats per target; `crps`, the continuous ranked probability
        score (Gneiting & Raftery 2007), in the unit of the targets; and `coverage:0.5`,
        `coverage:0.9`, `coverage:0.95`, the share of targets within the central interval of that
        probability. Without a mean, or for targets with a density of whole arrays alone, `nll`.
    """
    log_prob = prediction.log_prob(y)
    examples = _Examples.of(log_prob)
    result = {"nll": examples.mean(-log_prob)}
    if not prediction.is_of_single_targets:
        return result
    result["crps"] = examples.mean(prediction.crps(y))
    for level in LEVELS:
        result[f"coverage:{level:g}"] = examples.mean(prediction.contains(y, level))
    if not prediction.has_moments:
        return result
    square = examples.mean((prediction.mean - y).double().square())
    root = math.sqrt(square.value)
    error = square.error / (2 * root) if root > 0 else math.nan
    return {"rmse": Score(root, error), **result}


class _Examples:
    """Examples with one label or several, over which scores are means.

    Args:
        of_label: The number of the example to which each of `L` labels belongs, `(L,)`.
        count: The number of examples.
    """

    def __init__(self, of_label: Tensor, count: int) -> None:
        self.of_label, self.count = of_label, count

    @classmethod
    def of(cls, y: Tensor) -> _Examples:
        """Return the examples of labels `(N, ...)` that all count."""
        return cls(torch.arange(len(y)).repeat_interleave(y[:1].numel()), len(y))

    def mean(self, values: Tensor) -> Score:
        """Return the mean of a number per label, `(L,)` in their order, and its standard error."""
        values = values.double().flatten()
        mean = values.mean()
        excess = torch.zeros(self.count, dtype=torch.float64)
        excess.index_add_(0, self.of_label, values - mean)
        error = math.nan
        if self.count > 1:
            error = float(scipy.stats.sem(excess)) * self.count / len(values)
        return Score(float(mean), error)


def ood_scores(
    inside: Prediction | MixturePrediction, outside: Prediction | MixturePrediction
) -> dict[str, float]:
    """Return the scores of `detection`, without their standard errors."""
    return {name: score.value for name, score in detection(inside, outside).items()}


def detection(
    inside: Prediction | MixturePrediction, outside: Prediction | MixturePrediction
) -> dict[str, Score]:
    """Score how well uncertainty detects examples from outside the distribution of the data.

    Each example contributes to the standard error by the share of examples of the other set from
    which it is told apart correctly (DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44). If
    examples have several labels, the standard error is NaN.

    Args:
        inside: The prediction of examples like the training data.
        outside: The prediction of other examples.

    Returns:
        The area under the ROC curve of detectors. Of classes these are `ood_auroc_entropy`,
        `ood_auroc_mutual_information` (0.5 for a point mass, which has none), and
        `ood_auroc_confidence`, for one minus the largest probability. Of real-valued targets they
        are `ood_auroc_std`, the standard deviation, and `ood_auroc_epistemic`, that of the means of
        the draws.
    """
    others = inside.uncertainties()
    found = {}
    for name, values in outside.uncertainties().items():
        positive, negative = values.flatten(), others[name].flatten()
        error = _auroc_error(positive, negative) if values.ndim == 1 else math.nan
        found[f"ood_auroc_{name}"] = Score(auroc(positive, negative), error)
    return found


def auroc(positive: Tensor, negative: Tensor) -> float:
    """Return the probability that a positive example scores above a negative one.

    Ties count as halves. This is the area under the ROC curve (Hanley & McNeil 1982), computed from
    ranks as the Mann-Whitney statistic.

    Args:
        positive: Scores of the positive examples, `(P,)`.
        negative: Scores of the negative examples, `(N,)`.
    """
    return float(_shares_below(positive, negative)[0].mean())


def _auroc_error(positive: Tensor, negative: Tensor) -> float:
    if min(len(positive), len(negative)) < 2:
        return math.nan
    return math.hypot(*map(scipy.stats.sem, _shares_below(positive, negative)))


def _shares_below(positive: Tensor, negative: Tensor) -> tuple[Any, Any]:
    """Return the share of negative examples below each positive one, and the converse.

    The first is `(P,)`. The second is the share of positive examples above each negative one,
    `(N,)`.
    """
    a, b = positive.double().numpy(), negative.double().numpy()
    ranks = scipy.stats.rankdata(np.concatenate([a, b]))
    below = (ranks[: len(a)] - scipy.stats.rankdata(a)) / len(b)
    above = 1 - (ranks[len(a) :] - scipy.stats.rankdata(b)) / len(a)
    return below, above


def _miscalibration(confidence: Tensor, correct: Tensor) -> Tensor:
    """Return the contributions of examples to the expected calibration error: `(N,)`.

    Their mean is the error, `sum_b n_b / N |accuracy_b - confidence_b|` over bins
    `[b / 15, (b + 1) / 15)`. The last bin also contains 1, for which torchmetrics 1.9 has a bin of
    its own. An example contributes the difference with the sign that it has for the whole bin. A
    standard error of these takes the signs as known.

    Args:
        confidence: The probability of the prediction, `(N,)`.
        correct: Whether the prediction is right, `(N,)`.
    """
    bins = (confidence * ECE_BINS).long().clamp(0, ECE_BINS - 1)
    difference = correct.double() - confidence
    excess = torch.zeros(ECE_BINS, dtype=torch.float64).index_add_(0, bins, difference)
    return difference * excess.sign()[bins]

"""How good predictions are: proper scores, calibration, and detection of foreign examples.

`Posterior.evaluate` returns the scores with their standard errors (`Scores`). A standard error says
how much a score would vary if other test examples had been drawn. Each score is the mean of one
number per example, its contribution, or nearly so: a smooth function of such means. Its standard
error is the standard deviation of the contributions over the root of their number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
from bayes_htr.posterior.mixture import MixturePrediction
from bayes_htr.posterior.prediction import Prediction

ECE_BINS = 15
"""Bins of equal width of the calibration error."""

LEVELS = (0.5, 0.9, 0.95)
"""The probabilities of the intervals whose coverage is measured."""


def scores(
    prediction: Prediction | MixturePrediction, y: Tensor, likelihood: Likelihood | None = None
) -> dict[str, float]:
    """Score predictions against labels by what suits the likelihood.

    Args:
        prediction: The prediction of `N` examples.
        y: Their labels, `(N, ...)`.
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


def class_scores(prediction: Prediction, y: Tensor, counted: Tensor) -> dict[str, float]:
    """Score probabilities of classes; each label counts alike, where an example has several.

    Args:
        prediction: The prediction, with `log_probs` `(N, ..., C)`.
        y: Labels `(N, ...)`, or soft labels `(N, ..., C)`.
        counted: Which labels count, `(N, ...)`.

    Returns:
        `accuracy`, in [0, 1]; `nll`, the negative log likelihood in nats per label; `ece`, the
        expected calibration error with 15 bins of equal width and the L1 norm (Guo et al. 2017);
        `brier`, the mean over labels of the sum over classes of squared differences (Brier 1950),
        in [0, 2]. A soft label is right where its most probable class is.
    """
    log_probs = prediction.log_probs[counted].double()
    y = y[counted]
    probs, is_soft = log_probs.exp(), y.is_floating_point()
    correct = log_probs.argmax(1) == (y.argmax(1) if is_soft else y)
    given = y.double() if is_soft else F.one_hot(y, probs.shape[1])
    nll = -(given * log_probs).sum(1).mean() if is_soft else F.nll_loss(log_probs, y)
    return {
        "accuracy": float(correct.double().mean()),
        "nll": float(nll),
        "ece": _calibration_error(probs.amax(1), correct),
        "brier": float((probs - given).square().sum(1).mean()),
    }


def yes_or_no_scores(prediction: Prediction, y: Tensor) -> dict[str, float]:
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
    errors = [_calibration_error(p, label) for p, label in columns]
    nll = -torch.where(y > 0, y * yes, 0.0) - torch.where(y < 1, (1 - y) * no, 0.0)
    result = {
        "accuracy": float(((yes > no) == (y > 0.5)).double().mean()),
        "nll": float(nll.mean()),
        "ece": float(np.mean(errors)),
        "brier": float((probs - y).square().mean()),
    }
    if y.ndim > 1:
        result |= {f"ece:{label}": error for label, error in enumerate(errors)}
    return result


def target_scores(prediction: MixturePrediction, y: Tensor) -> dict[str, float]:
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
    result = {"nll": float(-prediction.log_prob(y).double().mean())}
    if not prediction.is_of_single_targets:
        return result
    result |= {"crps": float(prediction.crps(y).mean())}
    result |= {f"coverage:{level:g}": float(prediction.covers(y, level)) for level in LEVELS}
    if prediction.has_moments:
        error = (prediction.mean - y).double().square().mean()
        return {"rmse": float(error.sqrt()), **result}
    return result


def ood_scores(
    inside: Prediction | MixturePrediction, outside: Prediction | MixturePrediction
) -> dict[str, float]:
    """Score how well uncertainty detects examples from outside the distribution of the data.

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
    pairs = zip(outside.uncertainties().items(), inside.uncertainties().values(), strict=True)
    return {f"ood_auroc_{name}": auroc(a.flatten(), b.flatten()) for (name, a), b in pairs}


def auroc(positive: Tensor, negative: Tensor) -> float:
    """The probability that a positive example scores above a negative one.

    Ties count as halves. This is the area under the ROC curve (Hanley & McNeil 1982), computed from
    ranks as the Mann-Whitney statistic.

    Args:
        positive: Scores of the positive examples, `(P,)`.
        negative: Scores of the negative examples, `(N,)`.
    """
    ranks = scipy.stats.rankdata(
        np.concatenate([positive.double().numpy(), negative.double().numpy()])
    )
    p, n = len(positive), len(negative)
    return float((ranks[:p].sum() - p * (p + 1) / 2) / (p * n))


def _calibration_error(confidence: Tensor, correct: Tensor) -> float:
    """`sum_b n_b / N |accuracy_b - confidence_b|` over bins `[b / 15, (b + 1) / 15)`.

    The last bin also contains 1, for which torchmetrics 1.9 has a bin of its own.
    """
    _, excess = calibration_bins(confidence, correct)
    return float(excess.abs().sum() / len(confidence))


def calibration_bins(confidence: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    """The bin of each example, and by how much the right ones of a bin exceed its confidence.

    Args:
        confidence: The probability of the prediction, `(N,)`.
        correct: Whether the prediction is right, `(N,)`.

    Returns:
        `(N,)` bins, and `(15,)` sums over the examples of each bin.
    """
    bins = (confidence * ECE_BINS).long().clamp(0, ECE_BINS - 1)
    excess = torch.zeros(ECE_BINS, dtype=torch.float64)
    excess.index_add_(0, bins, correct.double() - confidence)
    return bins, excess


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

    def __repr__(self) -> str:
        return str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self), self.standard_errors, self.num_examples)

    def parts(self, width: int) -> Sequence[Table | str]:
        """A row for each score, with as many digits as the standard error leaves."""
        table = compact_table("score", "value", "standard error")
        for name, value in self.items():
            error = self.standard_errors.get(name, math.nan)
            digits = 4
            if math.isfinite(error) and error > 0:
                digits = min(6, max(0, 1 - math.floor(math.log10(error))))
            shown = f"{error:.{digits}f}" if math.isfinite(error) else ""
            add_row(table, [name, f"{value:.{digits}f}", shown])
        return [table, plural(self.num_examples, "test example")]


def standard_errors(prediction: Any, y: Tensor) -> dict[str, float]:
    """The standard errors of the scores of a classification.

    Args:
        prediction: The prediction of `N` examples over `C` classes.
        y: Their labels, `(N,)` whole numbers.

    Returns:
        Those of `accuracy`, `nll`, `ece` and `brier`; empty for anything but one label per example.
        That of `ece` takes it as known on which side of its confidence each bin's accuracy lies.
    """
    if not isinstance(prediction, Prediction) or prediction.log_probs.ndim != 2:
        return {}
    if y.ndim != 1 or y.is_floating_point() or len(y) < 2 or int(y.min()) < 0:
        return {}
    log_probs = prediction.log_probs.double()
    probs = log_probs.exp()
    correct = (prediction.labels == y).double()
    confidence = probs.amax(1)
    bins, excess = calibration_bins(confidence, correct)
    contributions = {
        "accuracy": correct,
        "nll": -log_probs.gather(1, y[:, None])[:, 0],
        "ece": (correct - confidence) * excess.sign()[bins],
        "brier": (probs - F.one_hot(y, probs.shape[1])).square().sum(1),
    }
    return {name: float(scipy.stats.sem(values)) for name, values in contributions.items()}


def detection_errors(inside: Any, outside: Any) -> dict[str, float]:
    """The standard errors of the areas under the ROC curve of `ood_scores`.

    Each example contributes the share of examples of the other set from which it is told rightly
    (DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44).

    Args:
        inside: The prediction of examples like the training data.
        outside: The prediction of other examples.

    Returns:
        Those of `ood_auroc_entropy`, `ood_auroc_mutual_information` and `ood_auroc_confidence`;
        empty for anything but predictions of classes.
    """
    if not isinstance(inside, Prediction) or not isinstance(outside, Prediction):
        return {}
    pairs = zip(outside.uncertainties().items(), inside.uncertainties().values(), strict=True)
    return {f"ood_auroc_{name}": _auroc_error(a, b) for (name, a), b in pairs}


def _auroc_error(positive: Tensor, negative: Tensor) -> float:
    a, b = positive.double().flatten().numpy(), negative.double().flatten().numpy()
    if min(len(a), len(b)) < 2:
        return math.nan
    ranks = scipy.stats.rankdata(np.concatenate([a, b]))
    above = (ranks[: len(a)] - scipy.stats.rankdata(a)) / len(b)
    below = 1 - (ranks[len(a) :] - scipy.stats.rankdata(b)) / len(a)
    return math.hypot(scipy.stats.sem(above), scipy.stats.sem(below))

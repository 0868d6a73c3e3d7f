"""Scores of predictions with their standard errors, as `Posterior.evaluate` returns them.

A standard error says how much a score would vary if other test examples had been drawn. Each score
is the mean of one number per example, its contribution, or nearly so: a smooth function of such
means. Its standard error is the standard deviation of the contributions over the root of their
number.
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
from bayes_htr.posterior.prediction import Prediction
from bayes_htr.posterior.scores import ECE_BINS


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
    bins = (confidence * ECE_BINS).long().clamp(0, ECE_BINS - 1)
    excess = torch.zeros(ECE_BINS, dtype=torch.float64)
    excess.index_add_(0, bins, correct - confidence)
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
    detectors = {
        "entropy": (outside.entropy, inside.entropy),
        "mutual_information": (outside.mutual_information, inside.mutual_information),
        "confidence": (-outside.log_probs.amax(-1), -inside.log_probs.amax(-1)),
    }
    return {f"ood_auroc_{name}": _auroc_error(*pair) for name, pair in detectors.items()}


def _auroc_error(positive: Tensor, negative: Tensor) -> float:
    a, b = positive.double().flatten().numpy(), negative.double().flatten().numpy()
    if min(len(a), len(b)) < 2:
        return math.nan
    ranks = scipy.stats.rankdata(np.concatenate([a, b]))
    above = (ranks[: len(a)] - scipy.stats.rankdata(a)) / len(b)
    below = 1 - (ranks[len(a) :] - scipy.stats.rankdata(b)) / len(a)
    return math.hypot(scipy.stats.sem(above), scipy.stats.sem(below))

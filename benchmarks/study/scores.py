"""Scores of predictions, as they are and after temperature scaling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from bayes_htr.posterior.prediction import Prediction, mix, ood_scores, scores

_RANGE = math.log(20)


@dataclass(frozen=True)
class Predicted:
    """Predictions of one fit.

    Attributes:
        validation: Of the validation examples.
        test: Of the test examples.
        ood: Of examples of another data set.
    """

    validation: Prediction
    test: Prediction
    ood: Prediction


def mean_prediction(predictions: Sequence[Prediction]) -> Prediction:
    """The mean prediction of several fits, or that of the only one as it is."""
    if len(predictions) == 1:
        return predictions[0]
    return mix(p.log_probs for p in predictions)


def fitted_temperature(prediction: Prediction, y: Tensor) -> float:
    """The temperature that makes the NLL of mean predictions least (Guo et al. 2017).

    Between 1/20 and 20; above 1 it makes predictions less sure.

    Args:
        prediction: Of `N` validation examples.
        y: `(N,)` labels.
    """
    log_probs = prediction.log_probs.double()

    def nll(log_temperature: float) -> float:
        return float(F.cross_entropy(log_probs / math.exp(log_temperature), y))

    found = minimize_scalar(nll, bounds=(-_RANGE, _RANGE), method="bounded")
    return math.exp(float(found.x))


def tempered(prediction: Prediction, temperature: float) -> Prediction:
    """A prediction whose mean probabilities are `p^(1/T)`, normalised; the same information."""
    log_probs = (prediction.log_probs.double() / temperature).log_softmax(1)
    return Prediction(log_probs.to(prediction.log_probs), prediction.mutual_information)


def all_scores(predicted: Predicted, y_validation: Tensor, y_test: Tensor) -> dict[str, Any]:
    """The scores of one fit.

    Returns:
        `validation` (of the validation data), `plain` and `scaled` (of the test data, with the
        areas under ROC curves of the other data set; the second after temperature scaling), each
        a dict by score, and `temperature`.
    """
    temperature = fitted_temperature(predicted.validation, y_validation)
    test, ood = predicted.test, predicted.ood
    scaled = tempered(test, temperature), tempered(ood, temperature)
    return {
        "validation": scores(predicted.validation, y_validation),
        "plain": scores(test, y_test) | ood_scores(test, ood),
        "scaled": scores(scaled[0], y_test) | ood_scores(*scaled),
        "temperature": temperature,
    }

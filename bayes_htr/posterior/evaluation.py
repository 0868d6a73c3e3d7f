"""Scores of predictions: accuracy, NLL, calibration error, Brier score, and OOD detection."""

from __future__ import annotations

import numpy as np
import scipy
import torch
import torch.nn.functional as F
from torch import Tensor

from bayes_htr.posterior.prediction import Prediction

ECE_BINS = 15


def scores(prediction: Prediction, y: Tensor) -> dict[str, float]:
    """The scores of predictions.

    Args:
        prediction: The predictions of `N` examples.
        y: `(N,)` labels.

    Returns:
        `accuracy` in [0, 1]; `nll` in nats per example; `ece`, the expected calibration error with
        15 bins of equal width and the L1 norm (Guo et al. 2017); `brier`, the mean over examples of
        the sum over classes of squared differences (Brier 1950), in [0, 2].
    """
    log_probs = prediction.log_probs.double()
    probs = log_probs.exp()
    correct = prediction.labels == y
    return {
        "accuracy": float(correct.double().mean()),
        "nll": float(F.nll_loss(log_probs, y)),
        "ece": _calibration_error(probs.amax(1), correct),
        "brier": float((probs - F.one_hot(y, probs.shape[1])).square().sum(1).mean()),
    }


def ood_scores(inside: Prediction, outside: Prediction) -> dict[str, float]:
    """How well the uncertainty of predictions detects examples from outside the distribution.

    Args:
        inside: Predictions of examples like the training data.
        outside: Predictions of other examples.

    Returns:
        The area under the ROC curve of three detectors: `ood_auroc_entropy`,
            `ood_auroc_mutual_information` (0.5 for a point estimate, whose mutual information is
            zero) and `ood_auroc_confidence` (one minus the largest probability).
    """

    def unsure(prediction: Prediction) -> Tensor:
        return -prediction.log_probs.amax(1)

    pairs = {
        "entropy": (outside.entropy, inside.entropy),
        "mutual_information": (outside.mutual_information, inside.mutual_information),
        "confidence": (unsure(outside), unsure(inside)),
    }
    return {f"ood_auroc_{name}": auroc(*pair) for name, pair in pairs.items()}


def auroc(positive: Tensor, negative: Tensor) -> float:
    """The probability that a positive scores higher than a negative, where ties count as one half.

    This is the Mann-Whitney statistic, computed from ranks, and equals the area under the ROC curve
    (Hanley & McNeil 1982).

    Args:
        positive: `(P,)` scores.
        negative: `(N,)` scores.
    """
    ranks = scipy.stats.rankdata(
        np.concatenate([positive.double().numpy(), negative.double().numpy()])
    )
    p, n = len(positive), len(negative)
    return float((ranks[:p].sum() - p * (p + 1) / 2) / (p * n))


def _calibration_error(confidence: Tensor, correct: Tensor) -> float:
    """`sum_b n_b / N |accuracy_b - confidence_b|` over bins `[b / 15, (b + 1) / 15)`.

    The last bin also contains 1. (torchmetrics 1.9 has a separate bin for a confidence of 1.)
    """
    bins = (confidence * ECE_BINS).long().clamp(0, ECE_BINS - 1)
    excess = torch.zeros(ECE_BINS, dtype=torch.float64)
    excess.index_add_(0, bins, correct.double() - confidence)
    return float(excess.abs().sum() / len(confidence))

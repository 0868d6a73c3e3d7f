"""How good predictions are: accuracy, NLL, calibration error and Brier score."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from bayes_htr.posterior.prediction import Prediction

ECE_BINS = 15


def scores(prediction: Prediction, y: Tensor) -> dict[str, float]:
    """The scores of predictions.

    Args:
        prediction: Of `N` examples.
        y: `(N,)` labels.

    Returns:
        `accuracy` in [0, 1]; `nll` in nats per example; `ece`, the expected calibration
        error with 15 bins of equal width and the L1 norm (Guo et al. 2017); `brier`, the mean over
        examples of the sum over classes of squared differences (Brier 1950), in [0, 2].
    """
    probs = prediction.probs
    classes = probs.shape[1]
    return {
        "accuracy": float(
            multiclass_accuracy(prediction.labels, y, num_classes=classes, average="micro")
        ),
        "nll": float(F.nll_loss(prediction.log_probs, y)),
        "ece": float(
            multiclass_calibration_error(probs, y, num_classes=classes, n_bins=ECE_BINS, norm="l1")
        ),
        "brier": float((probs - F.one_hot(y, classes)).square().sum(1).mean()),
    }

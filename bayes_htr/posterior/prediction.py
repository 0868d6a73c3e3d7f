"""Predictions of a posterior, with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """The predictive distribution of `N` examples over `C` classes, on the CPU.

    Attributes:
        log_probs: `(N, C)`, logarithms of the probabilities averaged over draws.
        mutual_information: `(N,)` in nats: what the label would tell of the weights (epistemic
            uncertainty); zero for a point estimate.
    """

    log_probs: Tensor
    mutual_information: Tensor

    @property
    def probs(self) -> Tensor:
        """`(N, C)`, rows that sum to 1."""
        return self.log_probs.exp()

    @property
    def labels(self) -> Tensor:
        """`(N,)`, the most probable class."""
        return self.log_probs.argmax(1)

    @property
    def entropy(self) -> Tensor:
        """`(N,)` in nats: the whole predictive uncertainty."""
        return _entropy(self.log_probs)


def mix(log_probs: Sequence[Tensor]) -> Prediction:
    """The prediction that averages the probabilities of draws, each `(N, C)`.

    The mutual information is the entropy of the mean less the mean of the entropies
    (Houlsby et al. 2011; Depeweg et al. 2018).
    """
    if len(log_probs) == 1:
        return Prediction(log_probs[0], torch.zeros(len(log_probs[0])))
    draws = torch.stack(list(log_probs))
    mean = torch.logsumexp(draws, 0) - math.log(len(draws))
    information = _entropy(mean) - _entropy(draws).mean(0)
    return Prediction(mean, information.clamp_min(0))


def _entropy(log_probs: Tensor) -> Tensor:
    return torch.special.entr(log_probs.exp()).sum(-1)

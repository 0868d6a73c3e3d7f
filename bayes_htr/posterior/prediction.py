"""Predictions of a posterior, with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """The predictive distribution of `N` examples over `C` classes, on the CPU.

    Attributes:
        log_probs: `(N, C)`, logarithms of the probabilities, averaged over draws.
        mutual_information: `(N,)` in nats, between label and weights (epistemic uncertainty); zero
            for a point estimate.
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
        """`(N,)` in nats, the total predictive uncertainty."""
        return _entropy(self.log_probs)

    @property
    def aleatoric(self) -> Tensor:
        """`(N,)` in nats, the mean entropy of the draws: `entropy` minus `mutual_information`."""
        return (self.entropy - self.mutual_information).clamp_min(0)


def mix(log_probs: Iterable[Tensor]) -> Prediction:
    """The prediction that averages the probabilities of draws, each `(N, C)`.

    The mutual information is the entropy of the mean minus the mean of the entropies (Houlsby et
    al. 2011; Depeweg et al. 2018). The draws are read one at a time and summed in float64.
    """
    draws = iter(log_probs)
    first = next(draws)
    total, entropies, count = first.double(), _entropy(first.double()), 1
    for draw in draws:
        total = torch.logaddexp(total, draw.double())
        entropies = entropies + _entropy(draw.double())
        count += 1
    if count == 1:
        return Prediction(first, torch.zeros(len(first)))
    mean = total - math.log(count)
    information = (_entropy(mean) - entropies / count).clamp_min(0)
    return Prediction(mean.to(first), information.to(first))


def joined(parts: Iterable[Prediction]) -> Prediction:
    """The prediction of all examples, concatenated from predictions of parts in order."""
    several = list(parts)
    return Prediction(
        torch.cat([p.log_probs for p in several]),
        torch.cat([p.mutual_information for p in several]),
    )


def _entropy(log_probs: Tensor) -> Tensor:
    return torch.special.entr(log_probs.exp()).sum(-1)

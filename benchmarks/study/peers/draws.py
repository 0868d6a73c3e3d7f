"""Predictions of fits that consist of draws of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

import bayes_htr as htr
from bayes_htr.posterior.prediction import mix
from benchmarks.study.peers.training import seeded

Network = Callable[[Tensor], Tensor]
"""Maps images `(N, C, H, W)` to logits `(N, classes)`."""
BATCH = 1024
"""Images of which predictions are made at a time."""


@dataclass(frozen=True)
class Draws:
    """A fit whose predictions average draws.

    Attributes:
        draw: Takes a number, and yields at most so many draws of the network, one at a time.
        device: Where the networks are.
    """

    draw: Callable[[int], Iterable[Network]]
    device: torch.device

    def predict(self, x: Tensor, samples: int) -> htr.Prediction:
        """The average prediction of images `(N, C, H, W)`, with the same draws at each call."""
        with seeded(0), torch.no_grad():
            return mix(self._log_probs(net, x) for net in self.draw(samples))

    def _log_probs(self, net: Network, x: Tensor) -> Tensor:
        parts = [net(part.to(self.device)).log_softmax(1).cpu() for part in x.split(BATCH)]
        return torch.cat(parts)

"""The penalties of the table of special cases, with coefficient 1, as they read in a paper.

Plain formulas in float64 on one matrix; gradients by autograd through all singular values. Nothing
here knows the library.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def spectrum(W: Tensor) -> Tensor:
    return torch.linalg.svdvals(W) ** 2


def hill(lam: Tensor, fraction: float = 0.5) -> Tensor:
    """`1 + (1/k sum_{i<=k} ln(lambda_i / lambda_{k+1}))^-1`."""
    descending = sorted(lam, key=Tensor.item, reverse=True)
    k = max(1, math.floor(fraction * len(descending)))
    total = sum(torch.log(descending[i] / descending[k]) for i in range(k))
    return 1 + k / total


def weight_decay(W: Tensor) -> Tensor:
    return sum(w**2 for w in W.flatten()) / 2


def spectral_norm(W: Tensor) -> Tensor:
    return spectrum(W)[0] / 2


def nuclear_norm(W: Tensor) -> Tensor:
    return torch.linalg.svdvals(W).sum()


def weighted_alpha(W: Tensor) -> Tensor:
    lam = spectrum(W)
    return hill(lam) * torch.log(lam[0])


def stable_rank(W: Tensor) -> Tensor:
    return (W**2).sum() / spectrum(W)[0]


def powerlaw(W: Tensor) -> Tensor:
    lam = spectrum(W)
    return hill(lam).item() * torch.log(lam).sum()


def frechet(W: Tensor) -> Tensor:
    lam = spectrum(W)
    alpha = hill(lam).item()
    return (alpha + 1) * torch.log(lam[0]) + lam[0] ** -alpha


PENALTIES = {
    "weight_decay": weight_decay,
    "spectral_norm": spectral_norm,
    "nuclear_norm": nuclear_norm,
    "weighted_alpha": weighted_alpha,
    "stable_rank": stable_rank,
    "powerlaw": powerlaw,
    "frechet": frechet,
}

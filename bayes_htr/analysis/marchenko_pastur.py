"""The Marchenko-Pastur bulk of a spectrum, and the spikes above it.

The variance of the entries is the one whose law has the median of the eigenvalues (Gavish & Donoho
2014): a few spikes hardly move it. Eigenvalues above the edge are then counted, left out, and the
median is taken anew until their number stays. An eigenvalue counts as a spike above the point that
the largest one of a random matrix passes with probability 1 % (from 64 eigenvalues on; in smaller
square matrices, whose variance is less certain, up to 7 %): edge and width of Johnstone (2001)
for the Tracy-Widom law, whose quantile comes from the shifted Gamma law of Chiani (2014).

It is meant for entries of finite variance that look independent. A trained matrix with many small
eigenvalues has no such bulk; the Kolmogorov-Smirnov distance of the bulk tells.

WeightWatcher fits a kernel density estimate by least squares instead, and widens the edge by
another length; for square matrices its quarter circle has the right height for variance 1 alone.

References:
    Marchenko & Pastur (1967). Johnstone (2001), Annals of Statistics 29(2). Gavish & Donoho (2014),
    IEEE Transactions on Information Theory 60(8). Chiani (2014), Journal of Multivariate Analysis
    129.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy
import torch

from bayes_htr.analysis.esd import ESD, Array
from bayes_htr.distributions.bulk import Bulk

_FALSE_SPIKE = 0.01
_TURNS = 20
_RIGID = 1.1
"""Eigenvalues of a random matrix repel each other: `K D / log(2 + K)` exceeded this for fewer than
1 % of matrices of normal entries from 8 to 512 eigenvalues at aspect ratios from 1 to 16."""


@dataclass(frozen=True)
class MarchenkoPasturFit:
    """A fitted bulk.

    Attributes:
        variance: Of the entries.
        bulk_min: The lower edge of the bulk.
        bulk_max: The upper edge.
        threshold: Above it lies a spike.
        num_spikes: How many do.
        soft_rank: `bulk_max` over the largest eigenvalue: 1 where all is bulk, small where the
            largest spike stands far out.
        D: Kolmogorov-Smirnov distance (two-sided) of the other eigenvalues to the law.
        sigma: The standard deviation where the eigenvalues have mean 1: 1 where all is bulk,
            smaller the more of the trace the spikes hold.
        random_like: Whether the whole spectrum passes for that of a random matrix: no spike, and a
            distance as random matrices have.
    """

    variance: float
    bulk_min: float
    bulk_max: float
    threshold: float
    num_spikes: int
    soft_rank: float
    D: float
    sigma: float
    random_like: bool


def fit_marchenko_pastur(esd: ESD) -> MarchenkoPasturFit | None:
    """Fit the bulk of a spectrum; `None` where half of it is zero, so that it has none."""
    values, K = esd.values, len(esd.values)
    spikes = 0
    variance = threshold = math.nan
    seen: set[int] = set()
    for _ in range(_TURNS):
        bulk = values[: K - spikes]
        variance = float(np.median(bulk)) / (esd.N * _median(1 / esd.Q))
        if not float(np.median(bulk)) > esd.floor:
            return None
        threshold = variance * _threshold(esd.N, esd.M, esd.matrices)
        seen.add(spikes)
        spikes = min(int((values > threshold).sum()), K // 2)
        if spikes in seen:
            break
    total = float(values.sum())
    c = math.sqrt(1 / esd.Q)
    low, high = (esd.N * variance * (1 + sign * c) ** 2 for sign in (-1, 1))
    num_spikes = int((values > threshold).sum())
    D = _distance(values[: K - num_spikes] / (esd.N * variance), unit_law(1 / esd.Q))
    return MarchenkoPasturFit(
        variance=variance,
        bulk_min=low,
        bulk_max=high,
        threshold=threshold,
        num_spikes=num_spikes,
        soft_rank=high / float(values[-1]),
        D=D,
        sigma=math.sqrt(esd.N * variance * K / total),
        random_like=num_spikes == 0 and _RIGID * esd.matrices * math.log(2 + K) >= K * D,
    )


def unit_law(ratio: float) -> Bulk:
    """The law with mean 1, in float64: whatever the scale of the matrix, it stays there."""
    return Bulk(torch.tensor(ratio, dtype=torch.float64), torch.ones((), dtype=torch.float64))


@lru_cache(maxsize=1024)
def _median(ratio: float) -> float:
    """Of the law with mean 1."""
    return float(unit_law(ratio).icdf(torch.tensor(0.5, dtype=torch.float64)))


@lru_cache(maxsize=1024)
def _threshold(N: int, M: int, matrices: int) -> float:
    """What the largest eigenvalue of so many random matrices of unit variance seldom passes."""
    if N == 1:
        return math.inf
    a, b = math.sqrt(N - 1), math.sqrt(M)
    width = (a + b) * (1 / a + 1 / b) ** (1 / 3)
    gamma = scipy.stats.gamma.ppf(1 - _FALSE_SPIKE / matrices, 46.446, scale=0.186054)
    tracy_widom = float(gamma) - 9.84801
    return (a + b) ** 2 + width * tracy_widom


def _distance(values: Array, law: Bulk) -> float:
    n = len(values)
    cdf = law.cdf(torch.from_numpy(values.copy())).numpy()
    steps = np.arange(n + 1) / n
    return float(max((steps[1:] - cdf).max(), (cdf - steps[:-1]).max()))

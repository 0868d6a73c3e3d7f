"""The Marchenko-Pastur bulk of a spectrum, and the spikes above it.

The fit takes the variance of the entries whose law has the median of the eigenvalues (Gavish &
Donoho 2014), which a few spikes hardly move. It then leaves out the eigenvalues above the edge and
takes the median anew, until their number no longer changes. An eigenvalue is a spike if it lies
above the value that the largest eigenvalue of a random matrix exceeds with probability 1 % (for 64
or more eigenvalues; up to 7 % in smaller square matrices, whose variance is less certain). This
value has the edge and width of Johnstone (2001) for the Tracy-Widom law, and its quantile from the
shifted Gamma law of Chiani (2014).

The fit is meant for entries of finite variance that look independent. A trained matrix with many
small eigenvalues has no such bulk, which the Kolmogorov-Smirnov distance of the bulk shows. Where
it exceeds what random matrices reach by more than 0.1, or where more than half of the eigenvalues
would be spikes, there is no bulk, and spikes, edges and the soft rank are not defined. Distances of
random matrices with spikes in up to 40 % of their directions, or with entries of Student's t law
with 2 degrees of freedom, stay below this bound; those of spectra that are power laws, lognormal or
uniform lie above it.

WeightWatcher instead fits a kernel density estimate by least squares, and widens the edge by
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
_ITERATIONS = 20
_RIGID = 1.1
"""Eigenvalues of a random matrix repel each other: `K D / log(2 + K)` exceeded this for fewer than
1 % of matrices of normal entries with 8 to 512 eigenvalues and aspect ratios from 1 to 16."""

_TOLERANCE = 0.1


@dataclass(frozen=True)
class MarchenkoPasturFit:
    """A fitted bulk.

    Attributes:
        variance: Variance of the entries.
        bulk_min: Lower edge of the bulk.
        bulk_max: Upper edge of the bulk.
        threshold: The value above which an eigenvalue is a spike.
        num_spikes: Number of spikes.
        soft_rank: `bulk_max` over the largest eigenvalue: 1 where all is bulk, small where the
            largest spike lies far above the bulk.
        D: Two-sided Kolmogorov-Smirnov distance of the other eigenvalues from the law.
        sigma: Standard deviation of the entries if the eigenvalues are scaled to mean 1: 1 where
            all is bulk, and smaller the more of the trace the spikes hold.
        fits: Whether there is such a bulk: the distance is close to those of random matrices, and
            no more than half of the eigenvalues are spikes.
        random_like: Whether the whole spectrum is compatible with that of a random matrix: it has
            no spike, and a distance within the range of random matrices.
    """

    variance: float
    bulk_min: float
    bulk_max: float
    threshold: float
    num_spikes: int
    soft_rank: float
    D: float
    sigma: float
    fits: bool
    random_like: bool


def fit_marchenko_pastur(esd: ESD) -> MarchenkoPasturFit | None:
    """Fit the bulk of a spectrum; `None` where half of it is zero, so that there is no bulk."""
    values, K = esd.values, len(esd.values)
    spikes = 0
    variance = threshold = math.nan
    visited: set[int] = set()
    for _ in range(_ITERATIONS):
        median = float(np.median(values[: K - spikes]))
        if not median > esd.floor:
            return None
        variance = median / (esd.N * _unit_median(1 / esd.Q))
        threshold = variance * _unit_threshold(esd.N, esd.M, esd.matrices)
        visited.add(spikes)
        spikes = min(int((values > threshold).sum()), K // 2)
        if spikes in visited:
            break
    total = float(values.sum())
    c = math.sqrt(1 / esd.Q)
    low, high = (esd.N * variance * (1 + sign * c) ** 2 for sign in (-1, 1))
    num_spikes = int((values > threshold).sum())
    reached = _RIGID * esd.matrices * math.log(2 + K) / K
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
        fits=2 * num_spikes <= K and reached + _TOLERANCE >= D,
        random_like=num_spikes == 0 and _RIGID * esd.matrices * math.log(2 + K) >= K * D,
    )


def unit_law(ratio: float) -> Bulk:
    """Return the law with mean 1, in float64, which no scale of the matrix overflows."""
    return Bulk(torch.tensor(ratio, dtype=torch.float64), torch.ones((), dtype=torch.float64))


@lru_cache(maxsize=1024)
def _unit_median(ratio: float) -> float:
    """Return the median of the law with mean 1."""
    return float(unit_law(ratio).icdf(torch.tensor(0.5, dtype=torch.float64)))


@lru_cache(maxsize=1024)
def _unit_threshold(N: int, M: int, matrices: int) -> float:
    """Return the value that the largest eigenvalue of all the matrices seldom exceeds.

    There are `matrices` of them. Each has `N x M` entries of unit variance.
    """
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

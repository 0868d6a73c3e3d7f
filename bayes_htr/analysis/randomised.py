"""The spectrum that a matrix has when its entries are put into random order.

That keeps the distribution of the entries and destroys what training wrote across them: eigenvalues
above the largest random one are structure. A spike that stays after randomising is due to single
large entries (WeightWatcher calls it a correlation trap).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bayes_htr.analysis.esd import ESD, Array, esd_of

_FEW = 100
_REPLICAS = 5


@dataclass(frozen=True)
class Randomised:
    """A spectrum beside those of the randomised matrices.

    Attributes:
        esd: Of all replicas together.
        distance: Jensen-Shannon distance of the two sorted spectra, each divided by its sum, as
            WeightWatcher defines it, of the first replica.
        above: How many eigenvalues exceed the largest random one.
    """

    esd: ESD
    distance: float
    above: int


def randomise(
    matrices: Sequence[Tensor], esd: ESD, name: str, seed: int, factor: float = 1.0
) -> Randomised:
    """Put the entries of each matrix into random order and decompose it.

    Once, or five times where there are fewer than 100 eigenvalues, as WeightWatcher does. The order
    depends on the seed and the name alone.
    """
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    replicas = [
        esd_of([_shuffled(W, random) for W in matrices], name, factor)
        for _ in range(_REPLICAS if len(esd.values) < _FEW else 1)
    ]
    pooled = np.sort(np.concatenate([r.values for r in replicas]))
    return Randomised(
        ESD(pooled, esd.N, esd.M, esd.matrices * len(replicas), esd.eps),
        distance=jensen_shannon(esd.values, replicas[0].values),
        above=int((esd.values > pooled[-1]).sum()),
    )


def jensen_shannon(p: Array, q: Array) -> float:
    """The Jensen-Shannon distance of two vectors of equal length, each divided by its sum."""
    p, q = p / p.sum(), q / q.sum()
    m = (p + q) / 2
    divergence = (_entropy_to(p, m) + _entropy_to(q, m)) / 2
    return float(np.sqrt(max(divergence, 0.0)))


def _entropy_to(p: Array, m: Array) -> float:
    used = p > 0
    return float((p[used] * np.log(p[used] / m[used])).sum())


def _shuffled(W: Tensor, random: np.random.Generator) -> Tensor:
    flat = W.cpu().float().numpy().ravel() if W.dtype != torch.float64 else W.cpu().numpy().ravel()
    return torch.from_numpy(random.permutation(flat)).reshape(W.shape)

"""Spectra of matrices made from a weight: its entries in random order, and windows of the weight.

**Random order** keeps the distribution of the entries and destroys what training wrote across them:
eigenvalues above the largest random one are structure. A spike that remains in random order comes
from single large entries (WeightWatcher calls it a correlation trap).

**Windows** of one aspect ratio make matrices of different shapes comparable, since the shape of a
random matrix alone changes its spectrum and the fit of its tail. FARMS (fixed-aspect-ratio matrix
subsampling) cuts every matrix into windows of one aspect ratio and fits the average of their
spectra, which is that of all their eigenvalues together. Here the windows are as large as the
matrix allows, and just as many as cover it, evenly spaced; those of the authors' programs have
fixed sizes.

References:
    Hu, Goel, Killiakov & Yang (2025), arXiv:2506.06280.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bayes_htr._checks import number, whole_number
from bayes_htr.analysis.esd import ESD, Array, esd_of

_FEW = 100
_REPLICAS = 5


def randomised(
    matrices: Sequence[Tensor], esd: ESD, name: str, seed: int, factor: float = 1.0
) -> list[ESD]:
    """Put the entries of each matrix into random order and decompose it.

    There is one replica, or five where there are fewer than 100 eigenvalues, as in WeightWatcher.
    The order depends on the seed and the name alone.

    Args:
        matrices: Matrices of one shape.
        esd: The ESD of the matrices.
        name: The name of the weight that contains the matrices.
        seed: Seed of the random order.
        factor: A factor of all eigenvalues.

    Returns:
        The ESD of each replica.
    """
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    replicas = _REPLICAS if esd.matrices * esd.M < _FEW else 1
    return [
        replace(esd_of([_shuffled(W, random) for W in matrices], name, factor), eps=esd.eps)
        for _ in range(replicas)
    ]


def jensen_shannon(p: Array, q: Array) -> float:
    """Return the Jensen-Shannon distance of two `(K,)` vectors, each divided by its sum."""
    p, q = p / p.sum(), q / q.sum()
    m = (p + q) / 2
    divergence = (_divergence(p, m) + _divergence(q, m)) / 2
    return float(np.sqrt(max(divergence, 0.0)))


@dataclass(frozen=True)
class Farms:
    """The settings by which windows are cut.

    Attributes:
        aspect: Longer side over shorter side of a window, at least 1.
        size: Shorter side of a window; by default the largest that fits. A matrix that is smaller
            takes the largest that fits.

    Raises:
        ValueError: An aspect is below 1, or a size is below 2.
    """

    aspect: float = 1.0
    size: int | None = None

    def __post_init__(self) -> None:
        number(self.aspect, "aspect", at_least=1)
        if self.size is not None:
            whole_number(self.size, "size", at_least=2)

    def window(self, N: int, M: int) -> tuple[int, int]:
        """Return the longer and shorter side of the windows of a matrix with these sides."""
        short = min(M, max(1, int(N / self.aspect)), self.size or M)
        return min(N, round(short * self.aspect)), short


def farms_esd(matrices: Sequence[Tensor], farms: Farms, name: str, factor: float = 1.0) -> ESD:
    """Compute the average ESD of the windows of matrices of one shape."""
    windows = [window for W in matrices for window in _windows(W, farms)]
    return esd_of(windows, name, factor)


def _windows(W: Tensor, farms: Farms) -> list[Tensor]:
    tall = W if W.shape[0] >= W.shape[1] else W.T
    long, short = farms.window(*tall.shape)
    rows, columns = (_starts(n, w) for n, w in zip(tall.shape, (long, short), strict=True))
    return [tall[i : i + long, j : j + short] for i, j in itertools.product(rows, columns)]


def _starts(length: int, window: int) -> list[int]:
    """Return the places where windows begin, as few as are needed to cover a side."""
    count = -(-length // window)
    if count == 1:
        return [0]
    return [round(i * (length - window) / (count - 1)) for i in range(count)]


def _shuffled(W: Tensor, random: np.random.Generator) -> Tensor:
    flat = W.cpu().float().numpy().ravel() if W.dtype != torch.float64 else W.cpu().numpy().ravel()
    return torch.from_numpy(random.permutation(flat)).reshape(W.shape)


def _divergence(p: Array, m: Array) -> float:
    """Return the Kullback-Leibler divergence of p from m."""
    used = p > 0
    return float((p[used] * np.log(p[used] / m[used])).sum())

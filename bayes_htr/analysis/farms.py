"""Spectra of windows of one aspect ratio, so that matrices of different shapes can be compared.

The shape of a random matrix alone changes its spectrum and so what a tail fit finds. FARMS
(fixed-aspect-ratio matrix subsampling) cuts every matrix into windows of one aspect ratio and fits
the average of their spectra: that of all their eigenvalues together.

Windows here are as large as the matrix allows, and just as many as cover it, spread evenly; those
of the authors' programs have fixed sizes.

Reference: Hu, Goel, Killiakov & Yang (2025), arXiv:2506.06280.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from bayes_htr.analysis.esd import ESD, esd_of


@dataclass(frozen=True)
class Farms:
    """How windows are cut.

    Attributes:
        aspect: Longer side over shorter side of a window, at least 1.
        size: Its shorter side; by default the largest that fits. A matrix that is smaller takes
            the largest that fits.

    Raises:
        ValueError: An aspect below 1, or a size below 2.
    """

    aspect: float = 1.0
    size: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.aspect < math.inf:
            raise ValueError(f"aspect={self.aspect} must be at least 1: longer over shorter side")
        if self.size is not None and self.size < 2:
            raise ValueError(f"size={self.size} must be at least 2, or None for the largest")

    def window(self, N: int, M: int) -> tuple[int, int]:
        """Longer and shorter side of the windows of a matrix with these sides."""
        short = min(M, max(1, int(N / self.aspect)), self.size or M)
        return min(N, round(short * self.aspect)), short


def farms_esd(matrices: Sequence[Tensor], farms: Farms, name: str, factor: float = 1.0) -> ESD:
    """The average ESD of the windows of matrices of one shape."""
    found = [_windows(W if W.shape[0] >= W.shape[1] else W.T, farms, name) for W in matrices]
    values = factor * np.sort(np.concatenate([e.values for e in found]))
    return ESD(values, found[0].N, found[0].M, sum(e.matrices for e in found), found[0].eps)


def _windows(tall: Tensor, farms: Farms, name: str) -> ESD:
    long, short = farms.window(*tall.shape)
    rows, columns = (_starts(n, w) for n, w in zip(tall.shape, (long, short), strict=True))
    return esd_of(
        [tall[i : i + long, j : j + short] for i, j in itertools.product(rows, columns)], name
    )


def _starts(length: int, window: int) -> list[int]:
    """Where as few windows as cover a side begin."""
    count = -(-length // window)
    if count == 1:
        return [0]
    return [round(i * (length - window) / (count - 1)) for i in range(count)]

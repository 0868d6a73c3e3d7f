"""The empirical spectral density (ESD) of a weight: the eigenvalues of all its matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayes_htr.errors import SpectrumError
from bayes_htr.spectra import eigenvalues

Array = NDArray[np.float64]
_SINGLE, _DOUBLE = (float(np.finfo(kind).eps) for kind in (np.float32, np.float64))


@dataclass(frozen=True)
class ESD:
    """Eigenvalues, with the shape of the matrices to which they belong.

    Attributes:
        values: `(K,)` eigenvalues of all matrices together, ascending. Products of an adapter's
            factors, of rank r, have the r largest alone, since the others are always zero.
        N: The longer side of each matrix.
        M: The shorter side of each matrix.
        matrices: The number of matrices.
        eps: The relative spacing of the numbers in which the weights are stored.
    """

    values: Array
    N: int
    M: int
    matrices: int = 1
    eps: float = _DOUBLE

    @property
    def Q(self) -> float:  # noqa: N802 - the aspect ratio's usual name
        """The aspect ratio `N / M`, at least 1."""
        return self.N / self.M

    @property
    def floor(self) -> float:
        """The bound below which an eigenvalue differs from zero by rounding alone.

        Rounding errors of variance `(eps w)^2 / 12` for entries w form a random matrix, whose
        largest eigenvalue is its variance times `(sqrt N + sqrt M)^2`. For weights stored in
        float32 or better, ten times that error is allowed, because the computation that made them
        rounded as well. The bound is never below the error of the decomposition.
        """
        eps = max(self.eps, 10 * min(self.eps, _SINGLE))
        square = float(self.values.sum()) / (self.matrices * self.N * self.M)
        stored = eps**2 / 12 * square * (self.N**0.5 + self.M**0.5) ** 2
        return max(stored, (self.N * _DOUBLE) ** 2 * float(self.values[-1]))

    @property
    def error(self) -> float:
        """The largest difference that rounding may cause between two equal largest eigenvalues.

        Rounding moves a singular value by up to the norm of the errors, `sqrt(floor)`, to either
        side, and the algorithm that made an orthogonal matrix by up to half as much again.
        """
        return 8 * float(np.sqrt(self.floor * self.values[-1]))


def esd_of(
    matrices: Sequence[Tensor], name: str, factor: float = 1.0, rank: int | None = None
) -> ESD:
    """Compute the ESD of matrices of one shape.

    Args:
        matrices: The matrices.
        name: The name of the matrices in errors.
        factor: A factor of all eigenvalues.
        rank: The largest rank of each matrix, if it is below its shorter side.

    Raises:
        SpectrumError: An entry or an eigenvalue is not finite, or all eigenvalues are so small that
            float64 has no number for them.
    """
    sides = sorted(matrices[0].shape)
    with np.errstate(over="ignore"):
        spectra = [eigenvalues(W, name)[-(rank or len(W)) :] for W in matrices]
        values = factor * np.sort(np.concatenate(spectra))
    if not np.isfinite(values[-1]):
        raise SpectrumError(
            f"{name} has entries so large that its eigenvalues leave float64; scale it, or leave "
            "it out"
        )
    if values[-1] == 0 and any(bool(W.any()) for W in matrices):
        raise SpectrumError(
            f"{name} has entries so small that its eigenvalues leave float64; scale it, or leave "
            "it out"
        )
    eps = torch.finfo(matrices[0].dtype).eps
    return ESD(values, N=sides[1], M=sides[0], matrices=len(matrices), eps=eps)


def pooled(esds: Sequence[ESD]) -> ESD:
    """Return the ESD of all matrices of several ESDs, which are of one shape."""
    values = np.sort(np.concatenate([esd.values for esd in esds]))
    first = esds[0]
    return ESD(values, first.N, first.M, sum(esd.matrices for esd in esds), first.eps)

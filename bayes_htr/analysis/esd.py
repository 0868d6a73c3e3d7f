"""The empirical spectral density (ESD) of a weight: the eigenvalues of all its matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayes_htr.spectra import eigenvalues

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ESD:
    """Eigenvalues, with the shape of the matrices that they are of.

    Attributes:
        values: `(K,)`, ascending, of all matrices together.
        N: The longer side of a matrix.
        M: The shorter side.
        matrices: How many there are.
        eps: The relative spacing of the numbers that the weights are stored in.
    """

    values: Array
    N: int
    M: int
    matrices: int = 1
    eps: float = float(np.finfo(np.float64).eps)

    @property
    def Q(self) -> float:  # noqa: N802 - the aspect ratio's usual name
        """The aspect ratio `N / M`, at least 1."""
        return self.N / self.M

    @property
    def floor(self) -> float:
        """What rounding the entries alone makes of an eigenvalue that is zero.

        Errors of variance `(eps w)^2 / 12` for entries w are a random matrix, whose largest
        eigenvalue is its variance times `(sqrt N + sqrt M)^2`.
        """
        square = float(self.values.sum()) / (self.matrices * self.N * self.M)
        return self.eps**2 / 12 * square * (self.N**0.5 + self.M**0.5) ** 2


def esd_of(matrices: Sequence[Tensor], name: str) -> ESD:
    """The ESD of matrices of one shape.

    Raises:
        SpectrumError: Entries that are not finite.
    """
    sides = sorted(matrices[0].shape)
    values = np.sort(np.concatenate([eigenvalues(W, name) for W in matrices]))
    eps = torch.finfo(matrices[0].dtype).eps
    return ESD(values, N=sides[1], M=sides[0], matrices=len(matrices), eps=eps)

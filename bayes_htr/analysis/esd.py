"""The empirical spectral density (ESD) of a weight: the eigenvalues of all its matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
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
    """

    values: Array
    N: int
    M: int
    matrices: int = 1

    @property
    def Q(self) -> float:  # noqa: N802 - the aspect ratio's usual name
        """The aspect ratio `N / M`, at least 1."""
        return self.N / self.M


def esd_of(matrices: Sequence[Tensor], name: str) -> ESD:
    """The ESD of matrices of one shape.

    Raises:
        SpectrumError: Entries that are not finite.
    """
    sides = sorted(matrices[0].shape)
    values = np.sort(np.concatenate([eigenvalues(W, name) for W in matrices]))
    return ESD(values, N=sides[1], M=sides[0], matrices=len(matrices))

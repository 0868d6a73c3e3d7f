"""One matrix with the parts of its spectrum that priors ask for, each computed at most once.

What is needed is declared first (`Need`), so that the cheapest exact algorithm can be chosen:
`plan` says which that is and what it costs.
"""

from __future__ import annotations

import enum
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from bayes_htr.errors import SpectrumError
from bayes_htr.spectra.matrices import check_finite
from bayes_htr.spectra.statistics import largest_singular_value
from bayes_htr.spectra.top import BLOCK, SMALL


class Need(enum.Flag):
    """What a prior needs of a matrix."""

    ENTRIES = 0
    """The entries alone."""
    TOP = enum.auto()
    """The largest singular value, with gradient."""
    VALUES = enum.auto()
    """All singular values as constants."""
    FULL = enum.auto()
    """All singular values, with gradient."""
    DOUBLE = enum.auto()
    """Small singular values to their own relative accuracy: float64."""


class Plan(NamedTuple):
    """The algorithm for a need, and its cost in floating-point operations per evaluation."""

    algorithm: str
    flops: float


def plan(needs: Need, shape: tuple[int, int]) -> Plan:
    """The algorithm that `MatrixView` uses for these needs on a matrix of this shape.

    Costs: Golub & Van Loan (2013), Figure 8.6.1 for the decompositions; four block products and
    a thin orthogonalisation for a warm top pair.
    """
    K, M = min(shape), max(shape)
    steps: list[Plan] = []
    if Need.FULL in needs:
        steps.append(Plan("singular value decomposition", 6 * M * K**2 + 20 * K**3))
    else:
        if Need.VALUES in needs:
            steps.append(Plan("singular values", 2 * M * K**2 + 2 * K**3))
        if Need.TOP in needs and K <= SMALL:
            steps.append(Plan("top pair (Gram matrix)", 2 * M * K**2 + 9 * K**3))
        elif Need.TOP in needs:
            steps.append(Plan("top pair (block Krylov)", 16 * BLOCK * M * K))
    if not steps:
        return Plan("entries", 3 * M * K)
    name = " + ".join(s.algorithm for s in steps)
    return Plan(name + (", float64" if Need.DOUBLE in needs else ""), sum(s.flops for s in steps))


class MatrixView:
    """A matrix as priors see it.

    Args:
        W: `(m, n)`, float32 or float64; gradients flow to it.
        name: What errors call it.
        needs: All that will be asked for.
        block: Where the iteration for the largest singular value starts.
        started: Whether the matrix has been scored before: then values that have all left a law's
            support are no mistake in the prior, but where it has led.

    Attributes:
        block: Where the next iteration may start: set once `sigma_max` has been asked for.

    Raises:
        SpectrumError: Entries that are not finite.
    """

    def __init__(
        self,
        W: Tensor,
        name: str,
        needs: Need,
        block: Tensor | None = None,
        *,
        started: bool = False,
    ) -> None:
        check_finite(W.detach(), name)
        self.W = W.double() if Need.DOUBLE in needs else W
        self.name = name
        self.block = block
        self.started = started
        self._needs = needs

    @cached_property
    def sigma(self) -> Tensor:
        """All singular values, descending, with gradient: `(K,)`."""
        return torch.linalg.svdvals(self.W)

    @cached_property
    def sigma_max(self) -> Tensor:
        """The largest singular value with gradient: 0-d."""
        if Need.FULL in self._needs:
            return self.sigma[0]
        sigma, self.block = largest_singular_value(self.W, self.block)
        return sigma

    @cached_property
    def eigenvalues(self) -> Tensor:
        """The spectrum as constants, descending: `(K,)`."""
        if Need.FULL in self._needs:
            return self.sigma.detach().square()
        return torch.linalg.svdvals(self.W.detach()).square()

    def require_full_rank(self, because: str) -> None:
        """Raise if a singular value is zero to working accuracy.

        Raises:
            SpectrumError: `sigma_K <= max(m, n) eps sigma_1`, the convention of `matrix_rank`.
        """
        sigma = self.sigma.detach()
        floor = max(self.W.shape) * torch.finfo(self.W.dtype).eps * sigma[0]
        rank = int((sigma > floor).sum())
        if rank < len(sigma):
            raise SpectrumError(
                f"{self.name} has rank {rank} of {len(sigma)} (smallest singular value "
                f"{sigma[-1].item():.3g}), and {because}; use Lomax, or score the upper tail "
                "alone with tail="
            )

"""What a prior needs of a matrix, the cheapest exact algorithm for it, and its cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from bayes_htr.spectra.statistics import tail_count
from bayes_htr.spectra.top import BLOCK, SMALL


@dataclass(frozen=True)
class Need:
    """The requested parts of a spectrum; `a | b` requests both.

    Attributes:
        top: The largest eigenvalue.
        upper: The fraction of the largest eigenvalues that is needed, together with the next one
            below; 1 for all eigenvalues.
        singular_values: All singular values.
        log_det: `log det(I + W'W / s)` for some `s`.
        digits: Whether the smallest requested eigenvalue must have a small relative error.
    """

    top: bool = False
    upper: float = 0.0
    singular_values: bool = False
    log_det: bool = False
    digits: bool = False

    def __or__(self, other: Need) -> Need:
        return Need(
            self.top or other.top,
            max(self.upper, other.upper),
            self.singular_values or other.singular_values,
            self.log_det or other.log_det,
            self.digits or other.digits,
        )

    @property
    def whole(self) -> bool:
        """Whether all eigenvalues are needed, so that small ones matter."""
        return self.upper == 1 or self.singular_values

    @property
    def decomposed(self) -> bool:
        """Whether the matrix must be decomposed, which also gives the largest eigenvalue."""
        return self.upper > 0 or self.singular_values

    def count(self, K: int) -> int:
        """How many of `K` eigenvalues are needed."""
        return min(K, tail_count(K, self.upper) + 1) if 0 < self.upper < 1 else K


class Plan(NamedTuple):
    """The algorithm for a need, and its cost in floating-point operations per evaluation."""

    algorithm: str
    flops: float


def plan(needs: Need, shape: tuple[int, int]) -> Plan:
    """The algorithm that `MatrixView` uses for these needs on a matrix of this shape.

    The costs include the gradient. For decompositions they are from Golub & Van Loan (2013), Figure
    8.6.1 and section 8.3. For the largest singular triplet from a nearby start they are four block
    products and a thin orthogonalisation.
    """
    K, M = min(shape), max(shape)
    gram = M * K**2
    steps: list[Plan] = []
    if needs.singular_values:
        steps.append(Plan("singular value decomposition", 14 * gram + 8 * K**3))
    elif needs.upper:
        part = "all" if needs.whole else f"{needs.count(K)} largest"
        precision = ", float64" if needs.whole else ""
        back = 4 * M * K * needs.count(K)
        steps.append(Plan(f"eigh of Gram matrix ({part}{precision})", gram + 9 * K**3 + back))
    elif needs.top and K <= SMALL:
        steps.append(Plan("top pair (Gram matrix)", gram + 9 * K**3))
    elif needs.top:
        steps.append(Plan("top pair (block Krylov)", 16 * BLOCK * M * K))
    if needs.log_det and not needs.decomposed:
        steps.append(Plan("log det (Cholesky of Gram matrix)", 3 * gram + K**3))
    if not steps:
        return Plan("entries", 3 * M * K)
    return Plan(" + ".join(s.algorithm for s in steps), sum(s.flops for s in steps))

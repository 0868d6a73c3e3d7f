"""One matrix with the parts of its spectrum that priors need, each computed at most once.

The needs are declared first (`Need`), so that the cheapest exact algorithm can be chosen. The parts
are leaves of the caller's graph. An energy is a simple function of the parts, and `pull_back`
converts the derivatives with respect to the parts into the gradient with respect to the matrix. No
decomposition is differentiated, and a part can be used after its matrix is gone (`parts`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bayes_htr.errors import SpectrumError
from bayes_htr.spectra.gram import Eigen, eigen, log_det, pull_back
from bayes_htr.spectra.leading import BLOCK, SMALL, TopPair, top_pair
from bayes_htr.spectra.matrices import check_finite
from bayes_htr.spectra.statistics import tail_count


@dataclass(frozen=True)
class Need:
    """The parts of a spectrum that are needed; `a | b` needs the parts of both.

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
        """Return the number of eigenvalues that are needed, out of `K`."""
        return min(K, tail_count(K, self.upper) + 1) if 0 < self.upper < 1 else K


class Plan(NamedTuple):
    """The algorithm for a need, and its cost in floating-point operations per evaluation."""

    algorithm: str
    flops: float


def plan(needs: Need, shape: tuple[int, int]) -> Plan:
    """Return the algorithm that `MatrixView` uses for these needs on a matrix of this shape.

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


class Gradient(NamedTuple):
    """A gradient with respect to a matrix: `rest + left @ right`, where either may be absent.

    Attributes:
        rest: `(m, n)`: all that does not act through the largest singular value.
        left: `(m, b)`, or `(m,)`: the left factor of the part that does.
        right: `(b, n)`, or `(n,)`: its right factor.
    """

    rest: Tensor | None
    left: Tensor | None = None
    right: Tensor | None = None


class MatrixView:
    """A matrix and the parts of its spectrum, as priors use them.

    Args:
        W: `(m, n)`, float32 or float64.
        name: Name of the matrix in error messages.
        needs: All parts that will be requested.
        block: Starting block of the iteration for the largest singular value.
        started: Whether the prior has acted on the matrix before. If all values are then outside
            the support of a law, the prior has moved them there, and this is not an error.
        tol: Tolerance of the leading triplet, see `top_pair`.
        rank: The largest rank that the matrix can have, if it is smaller than both sides, as for a
            product `B A`. The other eigenvalues are zero, and do not belong to the spectrum.

    Attributes:
        shape: `(m, n)`.
        parts: The parts that have been requested so far, by name: leaves, with gradients if
            gradients are enabled.
        block: Starting block for the next iteration.

    Raises:
        SpectrumError: `W` has entries that are not finite.
    """

    def __init__(
        self,
        W: Tensor,
        name: str,
        needs: Need,
        block: Tensor | None = None,
        *,
        started: bool = False,
        tol: float | None = None,
        rank: int | None = None,
    ) -> None:
        if needs != Need():  # an energy of entries alone shows it itself
            check_finite(W, name)
        self.W = W.detach()
        self.shape = tuple(W.shape)
        self._rank = rank
        self.name = name
        self.block = block
        self.started = started
        self.parts: dict[str, Tensor] = {}
        self._needs = needs
        self._tol = tol
        self._log_det_gradients: dict[str, Tensor] = {}
        self._eigen: Eigen | None = None
        self._svd: tuple[Tensor, Tensor, Tensor] | None = None
        self._top: TopPair | None = None
        self._has_matrix = True

    @classmethod
    def of_parts(
        cls,
        like: Tensor,
        shape: tuple[int, int],
        name: str,
        needs: Need,
        parts: Mapping[str, Tensor],
        rank: int | None = None,
    ) -> MatrixView:
        """Return a view without its matrix, made from these parts, which are constants.

        The tensor `like` determines the dtype and the device.
        """
        view = cls(like.new_zeros(()), name, needs, started=True, rank=rank)
        view.shape, view._has_matrix = shape, False
        view.parts = {key: part.detach() for key, part in parts.items()}
        return view

    @property
    def rank(self) -> int:
        """The number of eigenvalues."""
        return min(self.shape if self._rank is None else (*self.shape, self._rank))

    @property
    def is_zero(self) -> bool:
        """Whether a matrix of several entries is zero."""
        return self.W.numel() > 1 and not bool(self.W.any())

    @property
    def norm(self) -> float:
        """The Frobenius norm, for messages."""
        return float(torch.linalg.vector_norm(self.W))

    @property
    def entries(self) -> Tensor:
        """The matrix."""
        return self._part("entries", lambda: self.W)

    @property
    def squared_norm(self) -> Tensor:
        """`|W|_F^2`, 0-d."""
        return self._part("squared_norm", lambda: self.W.square().sum())

    @property
    def eigenvalues(self) -> Tensor:
        """The spectrum `(rank,)`, descending; parts that were not requested may be inaccurate."""
        if self._needs.singular_values:
            return self.singular_values.square()
        return self._part("eigenvalues", lambda: self._decomposed().values[: self.rank])

    @property
    def singular_values(self) -> Tensor:
        """All singular values `(rank,)`, descending."""
        return self._part("singular_values", lambda: self._decomposed_svd()[1][: self.rank])

    @property
    def lambda_max(self) -> Tensor:
        """The largest eigenvalue, 0-d."""
        return self._part("lambda_max", lambda: self.top.sigma.square())

    def log_det(self, scale: float) -> Tensor:
        """Return `log det(I + W'W / scale)`, 0-d."""
        name = f"log_det {scale!r}"
        if name not in self.parts:
            value, self._log_det_gradients[name] = log_det(self.W, scale)
            self.parts[name] = value.detach().requires_grad_(torch.is_grad_enabled())
        return self.parts[name]

    @property
    def top(self) -> TopPair:
        """The largest singular value with its vectors, in the precision of the matrix."""
        if self._top is None:
            self._top = self._find_top()
        self.block = self._top.block
        return self._top

    def require_full_rank(self, because: str) -> None:
        """Raise an error if an eigenvalue is zero to working accuracy.

        Raises:
            SpectrumError: By the convention of `matrix_rank` a singular value is zero, that is
                `sigma_K <= max(m, n) eps sigma_1` in the precision of the computation.
        """
        if not self._has_matrix:
            return  # it was required of the matrix
        lam = self.eigenvalues.detach()
        floor = (
            (max(self.shape) * torch.finfo(lam.dtype).eps) ** 2
            if self._needs.singular_values
            else self._decomposed().floor
        )
        rank = int((lam > floor * lam[0]).sum())
        if rank < len(lam):
            raise SpectrumError(
                f"{self.name} has rank {rank} of {len(lam)} (smallest singular value "
                f"{lam[-1].sqrt().item():.3g}), and {because}; use Lomax, or score the upper tail "
                "alone with tail="
            )

    def pull_back(self, slopes: Mapping[str, Tensor | None]) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradient with respect to the matrix, from the slopes in its parts.

        The slopes are the derivatives of a function of the parts.

        Returns:
            The gradient of all that does not act through the largest singular value, `(m, n)`;
            and the slope in the largest singular value, 0-d. Either may be absent.
        """
        rest: list[Tensor] = []
        top = None
        for name, slope in slopes.items():
            if slope is None:
                continue
            if name == "entries":
                rest.append(slope)
            elif name == "squared_norm":
                rest.append(2 * slope * self.W)
            elif name == "eigenvalues":
                vectors = self._decomposed().vectors[:, : self.rank]
                rest.append(pull_back(self.W, vectors, slope))
            elif name == "singular_values":
                U, _, Vh = self._decomposed_svd()
                rest.append((U[:, : self.rank] * slope) @ Vh[: self.rank])
            elif name == "lambda_max":
                top = (2 * slope * self.top.sigma).to(self.W)
            else:
                rest.append(slope * self._log_det_gradients[name])
        total = sum((r.to(self.W.dtype) for r in rest[1:]), rest[0].to(self.W)) if rest else None
        return total, top

    def _part(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        if name not in self.parts:
            self.parts[name] = compute().detach().requires_grad_(torch.is_grad_enabled())
        return self.parts[name]

    def _decomposed(self) -> Eigen:
        if self._eigen is None:
            digits = self._needs.digits or not self._needs.whole
            count = self._needs.count(self.rank)
            self._eigen = eigen(self.W, count=count, digits=digits)
        return self._eigen

    def _decomposed_svd(self) -> tuple[Tensor, Tensor, Tensor]:
        if self._svd is None:
            W = self.W.double() if self._needs.digits else self.W
            self._svd = tuple(torch.linalg.svd(W, full_matrices=False))
        return self._svd

    def _find_top(self) -> TopPair:
        if not self._needs.decomposed:
            return top_pair(self.W, self.block, tol=self._tol)
        tall = self.W if self.W.shape[0] >= self.W.shape[1] else self.W.T
        if self._needs.singular_values:
            U, _, Vh = self._decomposed_svd()
            vectors = Vh.T if tall is self.W else U
        else:
            vectors = self._decomposed().vectors
        block = vectors[:, :BLOCK].to(self.W.dtype)
        v = block[:, 0]
        y = tall @ v
        sigma = torch.linalg.vector_norm(y)
        u = y / sigma.clamp(min=torch.finfo(y.dtype).tiny)
        if tall is not self.W:
            u, v = v, u
        return TopPair(sigma, u, v, block.contiguous())

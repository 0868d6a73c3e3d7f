"""A matrix of which this process has the smaller Gram matrix, and other processes the rows.

Such a view evaluates a prior as `MatrixView` does, in float64. The gradient with respect to the
matrix is `W S` with a symmetric `S` of the smaller side (`S W` for a wide matrix), and `pull_back`
returns `S` in its place: each process multiplies it by its own rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bayes_htr.spectra.gram import (
    ENOUGH,
    Eigen,
    has_digits,
    has_log_det,
    log_det_of_gram,
    of_gram,
    of_singular_values,
    square_of,
)
from bayes_htr.spectra.leading import BLOCK, FactorNeededError, TopPair
from bayes_htr.spectra.view import MatrixView, Need


class GramView(MatrixView):
    """A view of a matrix by its Gram matrix.

    Args:
        like: A tensor with the precision and the device of the matrix.
        shape: `(m, n)`, the shape of the matrix.
        name: Name of the matrix in error messages.
        needs: All parts that will be requested.
        squared_norm: `|W|_F^2`.
        gram: `(K, K)`, float64, the Gram matrix of the smaller side; `None` if `top` is all that is
            needed.
        factor: `(., K)`, float64, a matrix with the same singular values and the same singular
            vectors of the smaller side, if digits of small singular values matter.
        top: The leading triplet, if it is known. A triplet that the view computes itself has an
            empty `u`, which is the vector of the longer side.
        started: As in `MatrixView`.
    """

    def __init__(
        self,
        like: Tensor,
        shape: tuple[int, int],
        name: str,
        needs: Need,
        squared_norm: float,
        *,
        gram: Tensor | None = None,
        factor: Tensor | None = None,
        top: TopPair | None = None,
        started: bool = False,
    ) -> None:
        super().__init__(like.new_zeros(()), name, needs, started=started)
        self.shape = shape
        self._gram = gram if factor is None else factor.T @ factor
        self._factor = factor
        self._known_norm = squared_norm
        self._top = top

    @property
    def is_zero(self) -> bool:
        """Whether the matrix is zero."""
        return self._known_norm == 0

    @property
    def norm(self) -> float:
        """The Frobenius norm, for messages."""
        return self._known_norm**0.5

    @property
    def squared_norm(self) -> Tensor:
        """`|W|_F^2`, 0-d."""
        return self._part("squared_norm", lambda: self.W.new_tensor(self._known_norm))

    def log_det(self, scale: float) -> Tensor:
        """Return `log det(I + W'W / scale)`, 0-d."""
        name = f"log_det {scale!r}"
        if name not in self.parts:
            value, self._log_det_gradients[name] = self._log_det(scale)
            self.parts[name] = value.detach().requires_grad_(torch.is_grad_enabled())
        return self.parts[name]

    def pull_back(self, slopes: Mapping[str, Tensor | None]) -> tuple[Tensor | None, Tensor | None]:
        """Return the matrix `S` of the gradient `W S`, and the slope in the largest singular value.

        The matrix `S` is symmetric.

        Returns:
            `(K, K)`, in float64 if eigenvalues are needed, and 0-d. Either may be absent.
        """
        squares: list[Tensor] = []
        top = None
        for name, slope in slopes.items():
            if slope is None:
                continue
            if name == "squared_norm":
                K = min(self.shape)
                squares.append(torch.eye(K, dtype=torch.float64, device=slope.device) * 2 * slope)
            elif name == "eigenvalues":
                squares.append(square_of(self._decomposed().vectors, slope.double()))
            elif name == "singular_values":
                _, sigma, Vh = self._decomposed_svd()
                # Where a singular value is lost, its vector is too: 0 is a subgradient.
                lost = sigma <= max(self.shape) * torch.finfo(sigma.dtype).eps * sigma[0]
                squares.append(square_of(Vh.mT, torch.where(lost, 0.0, slope / (2 * sigma))))
            elif name == "lambda_max":
                top = (2 * slope * self.top.sigma).to(self.W)
            else:
                squares.append(slope * self._log_det_gradients[name])
        if not squares:
            return None, top
        total = sum(squares[1:], squares[0])
        return total if self._needs.decomposed else total.to(self.W.dtype), top

    def _log_det(self, scale: float) -> tuple[Tensor, Tensor]:
        """Return `log det(I + W'W / scale)`, 0-d, and the `S` of its gradient."""
        assert self._gram is not None
        K = min(self.shape)
        if has_log_det(self._known_norm / scale, torch.float64, self.W.dtype, K):
            return log_det_of_gram(self._gram, scale)
        result = of_singular_values(self._required_factor())
        value = (result.values / scale).log1p().sum()
        return value, square_of(result.vectors, 1 / (scale + result.values))

    def _decomposed(self) -> Eigen:
        if self._eigen is None:
            assert self._gram is not None
            result = of_gram(self._gram)
            needs, count = self._needs, self._needs.count(min(self.shape))
            digits = needs.decomposed and (needs.digits or not needs.whole)
            if digits and not has_digits(result, count, ENOUGH[self.W.dtype]):
                result = of_singular_values(self._required_factor())
            self._eigen = result
        return self._eigen

    def _decomposed_svd(self) -> tuple[Tensor, Tensor, Tensor]:
        if self._svd is None:
            self._svd = tuple(torch.linalg.svd(self._required_factor(), full_matrices=False))
        return self._svd

    def _find_top(self) -> TopPair:
        if self._needs.singular_values:
            _, singular, Vh = self._decomposed_svd()
            sigma, vectors = singular[0], Vh.mT
        else:
            values, vectors, _ = self._decomposed()
            sigma = values[0].sqrt()
        block = vectors[:, :BLOCK].to(self.W.dtype).contiguous()
        return TopPair(sigma.to(self.W.dtype), block.new_zeros(0), block[:, 0].clone(), block)

    def _required_factor(self) -> Tensor:
        if self._factor is None:
            raise FactorNeededError(self.name)
        return self._factor

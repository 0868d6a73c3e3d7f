"""Decompositions by the smaller Gram matrix, which is far cheaper than by singular values.

Squaring costs digits: an eigenvalue of the Gram matrix has an absolute error of about
`eps lambda_1`. Each function here states the accuracy of its result, or switches to float64, and
from there to singular values, if the accuracy is too low.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bayes_htr.spectra.matrices import as_matrix, check_finite

_ENOUGH = {torch.float32: 1e-3, torch.float64: 1e-11}
"""The largest acceptable relative error of the smallest requested eigenvalue, by dtype of the
weights."""

_ROUNDING = 8.0
"""Eigenvalues of a Gram matrix have an error of at most this many `eps lambda_1`. The largest error
found was 5.3, for matrices of normal entries, spiked, positive, of low rank and with power-law
spectra, up to 1024 x 1024, and with 64 columns and up to 200,000 rows."""

_ENOUGH_LOG_DET = {torch.float32: 1e-4, torch.float64: 1e-12}


class Eigen(NamedTuple):
    """Eigenvalues of `W'W`, descending, and the singular vectors of the smaller side.

    Attributes:
        values: `(K,)`.
        vectors: `(K, K)`, in columns.
        floor: An eigenvalue below `floor * values[0]` is zero to working accuracy.
    """

    values: Tensor
    vectors: Tensor
    floor: float


def eigen(W: Tensor, *, count: int, digits: bool, enough: float | None = None) -> Eigen:
    """All eigenvalues of `W'W`, with the singular vectors of the smaller side.

    Args:
        W: `(m, n)`, float32 or float64.
        count: How many of the largest eigenvalues are needed.
        digits: Whether the smallest of these must have a small relative error. Otherwise all errors
            are within a few `eps` of the largest eigenvalue, in float64.
        enough: The relative error that is small enough; by default that of a spectrum which is
            shown: 1e-3 for float32, 1e-11 for float64.

    Returns:
        The decomposition, in float64, or in float32 if only an upper part is needed, or `enough` is
        given, and float32 is accurate enough.
    """
    K = min(W.shape)
    dtypes = [torch.float64] if count == K and enough is None else [W.dtype, torch.float64]
    enough = _ENOUGH[W.dtype] if enough is None else enough
    for dtype in dict.fromkeys(dtypes):
        result = _of_gram(W.to(dtype))
        error = _ROUNDING * torch.finfo(dtype).eps
        if not digits or bool(result.values[count - 1] * enough > error * result.values[0]):
            return result
    return _of_singular_values(W.double())


_ENOUGH_VALUES = 1e-6
_ROWS = 4096


def eigenvalues(W: Tensor, name: str = "the matrix") -> np.ndarray:
    """The spectrum in float64, without vectors, with a small relative error of each eigenvalue.

    It is computed from the smaller Gram matrix in float64. This matrix is summed over blocks of
    rows, so that the matrix is not copied. If the smallest eigenvalue would have a relative error
    above `1e-6`, as in rank-deficient matrices, singular values are used instead. On the CPU, NumPy
    computes the product, because its product of a matrix with its own transpose takes half the time
    of a general product.

    Args:
        W: `(out, ...)`, of any floating-point type, on any device.
        name: Name of the matrix in error messages.

    Returns:
        `(K,)`, ascending.

    Raises:
        SpectrumError: Fewer than two dimensions, no entries, or entries that are not finite.
    """
    matrix = as_matrix(W.detach()).cpu()
    matrix = matrix if matrix.dtype in _ENOUGH else matrix.float()
    check_finite(matrix, name)
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    # By a power of two, which is exact: squares of the entries stay within float64.
    scale = 1.0
    if matrix.dtype == torch.float64:
        scale = 2.0 ** -max(int(torch.frexp(matrix.abs().max()).exponent), -1000)
    gram = np.zeros((tall.shape[1], tall.shape[1]))
    for rows in tall.split(_ROWS):
        block = rows.double().numpy() * scale if scale != 1.0 else rows.double().numpy()
        gram += block.T @ block
    values = np.linalg.eigvalsh(gram)
    error = _ROUNDING * np.finfo(np.float64).eps * values[-1]
    if not values[0] * _ENOUGH_VALUES > error:
        sigma = torch.linalg.svdvals(tall.double() * scale).numpy()
        values = np.square(sigma[::-1])
    return values / scale / scale


def _of_gram(W: Tensor) -> Eigen:
    tall = W if W.shape[0] >= W.shape[1] else W.T
    values, vectors = torch.linalg.eigh(tall.T @ tall)
    floor = max(W.shape) * torch.finfo(W.dtype).eps
    return Eigen(values.flip(0).clamp(min=0), vectors.flip(1), floor)


def _of_singular_values(W: Tensor) -> Eigen:
    tall = W if W.shape[0] >= W.shape[1] else W.T
    _, sigma, Vh = torch.linalg.svd(tall, full_matrices=False)
    floor = (max(W.shape) * torch.finfo(W.dtype).eps) ** 2
    return Eigen(sigma.square(), Vh.mT, floor)


def pull_back(W: Tensor, vectors: Tensor, slopes: Tensor) -> Tensor:
    """`sum_i slopes_i d lambda_i / dW = 2 W V diag(slopes) V'`, where zero slopes cost nothing.

    Args:
        W: `(m, n)`.
        vectors: `(K, K)`, singular vectors of the smaller side in columns.
        slopes: `(K,)`, derivatives with respect to the eigenvalues.
    """
    used = slopes != 0
    if bool(used.all()):
        V, weighted = vectors, 2 * vectors * slopes
    else:
        V = vectors[:, used]
        weighted = 2 * V * slopes[used]
    W = W.to(V.dtype)
    is_tall = W.shape[0] >= W.shape[1]
    K, d = V.shape
    larger = max(W.shape)
    if d * (2 * larger - K) > K * larger:  # fewer multiplications through a square matrix
        square = weighted @ V.T
        return W @ square if is_tall else square @ W
    return (W @ weighted) @ V.T if is_tall else V @ (weighted.T @ W)


def log_det(W: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """`log det(I + W'W / scale) = sum log(1 + lambda_i / scale)` and its gradient.

    It is computed by a Cholesky factorisation of the smaller side. If `|W|_F^2` is so large
    relative to the scale that float32 has too few digits, float64 is used, and if float64 has too
    few digits, singular values.

    Args:
        W: `(m, n)`, float32 or float64.
        scale: The scale, positive.

    Returns:
        The value, 0-d, and `2 (scale I + WW')^-1 W`, with the shape of `W`.
    """
    ratio = float(W.double().square().sum()) / scale
    for dtype in dict.fromkeys([W.dtype, torch.float64]):
        if ratio * torch.finfo(dtype).eps < _ENOUGH_LOG_DET[W.dtype] * max(1.0, min(W.shape) / 8):
            return _by_cholesky(W.to(dtype), scale)
    result = _of_singular_values(W.double())
    value = (result.values / scale).log1p().sum()
    return value, pull_back(W, result.vectors, 1 / (scale + result.values))


def _by_cholesky(W: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    wide = W if W.shape[0] <= W.shape[1] else W.T
    A = wide @ wide.T / scale
    A.diagonal().add_(1.0)
    L = torch.linalg.cholesky(A)
    value = 2 * L.diagonal().log().sum()
    gradient = (2 / scale) * (torch.cholesky_inverse(L) @ wide)
    return value, gradient if W.shape[0] <= W.shape[1] else gradient.T

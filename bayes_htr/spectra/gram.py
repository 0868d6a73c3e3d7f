"""Decompositions by the smaller Gram matrix, far cheaper than a singular value decomposition.

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

ENOUGH = {torch.float32: 1e-3, torch.float64: 1e-11}
"""The largest acceptable relative error of the smallest requested eigenvalue, by dtype of the
weights."""

_ROUGH = 1e-2
"""The largest acceptable relative error of an eigenvalue in training."""

_ROUNDING = 8.0
"""Eigenvalues of a Gram matrix have an error of at most this many `eps lambda_1`. The largest error
found was 5.3, for matrices of normal entries, spiked, positive, of low rank and with power-law
spectra, up to 1024 x 1024, and with 64 columns and up to 200,000 rows."""

_ENOUGH_LOG_DET = {torch.float32: 1e-4, torch.float64: 1e-12}

_SMALLEST = 1.5e-7
"""The smallest eigenvalue, relative to the largest, that two decompositions in float32 can find. An
eigenvalue of zero came out as 5e-10 at worst, with 447 of 600 eigenvalues at 1e-4."""
_DIVIDED = 256
"""Up to this number of eigenvalues, float64 takes some ten milliseconds, too little to avoid it."""


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


def eigen(W: Tensor, *, count: int, digits: bool, rough: bool = False) -> Eigen:
    """Return all eigenvalues of `W'W`, with the singular vectors of the smaller side.

    Args:
        W: `(m, n)`, float32 or float64.
        count: The number of largest eigenvalues that are needed.
        digits: Whether the smallest of these must have a small relative error. Otherwise all errors
            are within a few `eps` of the largest eigenvalue, in float64.
        rough: Whether a relative error of 1 % is small enough for all eigenvalues, as in training;
            otherwise it is 1e-3 for float32 and 1e-11 for float64.

    Returns:
        The decomposition, in float64, or in float32 if only an upper part is needed, or `rough` is
        set, and float32 is accurate enough.
    """
    K = min(W.shape)
    dtypes = [torch.float64] if count == K and not rough else [W.dtype, torch.float64]
    enough = _ROUGH if rough else ENOUGH[W.dtype]
    for dtype in dict.fromkeys(dtypes):
        tall = _tall(W).to(dtype)
        result = of_gram(tall.T @ tall)
        if not digits or has_digits(result, count, enough):
            return result
        if rough and K > _DIVIDED and dtype == torch.float32:
            finer = _in_two_parts(tall, result)
            if finer is not None:
                return finer
    return of_singular_values(W.double())


def _in_two_parts(tall: Tensor, first: Eigen) -> Eigen | None:
    """Decompose a float32 matrix again on the singular vectors of its inaccurate eigenvalues.

    These vectors span nearly the right space, because the errors of the Gram matrix mix a direction
    of it with one of a larger eigenvalue `lambda_j` by `eps lambda_1 / lambda_j` only. On that
    space the matrix is small, and so are the errors of its Gram matrix there. Two errors remain:
    the mixing adds up to `1e-9 lambda_1` to an eigenvalue, and the rounding of the product with the
    vectors changes singular values by some `eps sigma_1`.

    Args:
        tall: `(n, K)`, the matrix or its transpose.
        first: The decomposition of its Gram matrix.

    Returns:
        The decomposition, or `None` if the smallest eigenvalues would not be accurate to 1 %.
    """
    known = _known(first, _ROUGH)
    V = first.vectors[:, known:]
    small = tall @ V
    second = of_gram(small.mT @ small)
    is_found = bool(second.values[-1] > _SMALLEST * first.values[0])
    if not (is_found and has_digits(second, len(second.values), _ROUGH)):
        return None
    values = torch.cat([first.values[:known], second.values])
    vectors = torch.cat([first.vectors[:, :known], V @ second.vectors], 1)
    return Eigen(values, vectors, _SMALLEST)


_ENOUGH_VALUES = 1e-6
_ROWS = 4096


def eigenvalues(W: Tensor, name: str = "the matrix") -> np.ndarray:
    """Return the spectrum in float64, with a small relative error of each eigenvalue.

    It is computed, without vectors, from the smaller Gram matrix in float64. This matrix is summed
    over blocks of rows, so that the matrix is not copied. If the smallest eigenvalue would have a
    relative error above `1e-6`, as in rank-deficient matrices, singular values are used instead. On
    the CPU, NumPy computes the product, because its product of a matrix with its own transpose
    takes half the time of a general product.

    Args:
        W: `(out, ...)`, of any floating-point type, on any device.
        name: Name of the matrix in error messages.

    Returns:
        `(K,)`, ascending.

    Raises:
        SpectrumError: `W` has fewer than two dimensions, no entries, or entries that are not
            finite.
    """
    matrix = as_matrix(W.detach()).cpu()
    matrix = matrix if matrix.dtype in ENOUGH else matrix.float()
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


def of_gram(gram: Tensor) -> Eigen:
    """Return the decomposition of a matrix by its smaller Gram matrix `(K, K)`."""
    values, vectors = torch.linalg.eigh(gram)
    floor = _ROUNDING * torch.finfo(gram.dtype).eps
    return Eigen(values.flip(0).clamp(min=0), vectors.flip(1), floor)


def has_digits(result: Eigen, count: int, enough: float) -> bool:
    """Return whether the `count`-th eigenvalue has a relative error of at most `enough`.

    Args:
        result: The decomposition of the Gram matrix.
        count: How many of the largest eigenvalues are needed.
        enough: The largest acceptable error; `ENOUGH` has the values for spectra that are shown.
    """
    return _known(result, enough) >= count


def _known(result: Eigen, enough: float) -> int:
    """Return how many of the largest eigenvalues have a relative error of at most `enough`."""
    return int((result.values * enough > result.floor * result.values[0]).sum())


def of_singular_values(W: Tensor) -> Eigen:
    """Return the decomposition of a matrix by its singular values, in the precision of `W`."""
    _, sigma, Vh = torch.linalg.svd(_tall(W), full_matrices=False)
    floor = (max(W.shape) * torch.finfo(W.dtype).eps) ** 2
    return Eigen(sigma.square(), Vh.mT, floor)


def pull_back(W: Tensor, vectors: Tensor, slopes: Tensor) -> Tensor:
    """Return `sum_i slopes_i d lambda_i / dW = 2 W V diag(slopes) V'`.

    Slopes that are zero cost nothing.

    Args:
        W: `(m, n)`.
        vectors: `(K, K)`, singular vectors of the smaller side in columns.
        slopes: `(K,)`, derivatives with respect to the eigenvalues.
    """
    V, weighted = _weighted(vectors, slopes)
    W = W.to(V.dtype)
    is_tall = W.shape[0] >= W.shape[1]
    K, d = V.shape
    larger = max(W.shape)
    if d * (2 * larger - K) > K * larger:  # fewer multiplications through a square matrix
        square = weighted @ V.T
        return W @ square if is_tall else square @ W
    return (W @ weighted) @ V.T if is_tall else V @ (weighted.T @ W)


def square_of(vectors: Tensor, slopes: Tensor) -> Tensor:
    """Return `S = 2 V diag(slopes) V'`, where `W S`, or `S W` of a wide matrix, is `pull_back`."""
    V, weighted = _weighted(vectors, slopes)
    return weighted @ V.T


def _weighted(vectors: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the vectors whose slopes are not zero, and `2 V diag(slopes)`."""
    used = slopes != 0
    if bool(used.all()):
        return vectors, 2 * vectors * slopes
    V = vectors[:, used]
    return V, 2 * V * slopes[used]


def _tall(W: Tensor) -> Tensor:
    return W if W.shape[0] >= W.shape[1] else W.T


def log_det(W: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return `log det(I + W'W / scale) = sum log(1 + lambda_i / scale)` and its gradient.

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
        if has_log_det(ratio, dtype, W.dtype, min(W.shape)):
            wide = (W if W.shape[0] <= W.shape[1] else W.T).to(dtype)
            value, square = log_det_of_gram(wide @ wide.T, scale)
            gradient = square @ wide
            return value, gradient if W.shape[0] <= W.shape[1] else gradient.T
    result = of_singular_values(W.double())
    value = (result.values / scale).log1p().sum()
    return value, pull_back(W, result.vectors, 1 / (scale + result.values))


def has_log_det(ratio: float, dtype: torch.dtype, of: torch.dtype, K: int) -> bool:
    """Return whether a dtype has enough digits for `log det(I + W'W / scale)`.

    Args:
        ratio: `|W|_F^2 / scale`.
        dtype: The dtype of the Gram matrix.
        of: The dtype of the weights.
        K: The number of eigenvalues.
    """
    return ratio * torch.finfo(dtype).eps < _ENOUGH_LOG_DET[of] * max(1.0, K / 8)


def log_det_of_gram(gram: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return `log det(I + G / scale)` and `S = 2 (scale I + G)^-1`, where `W S` is its gradient."""
    A = gram / scale
    A.diagonal().add_(1.0)
    L = torch.linalg.cholesky(A)
    value = 2 * L.diagonal().log().sum()
    return value, (2 / scale) * torch.cholesky_inverse(L)

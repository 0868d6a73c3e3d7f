"""Statistics of the spectrum of a weight matrix.

The spectrum is `lambda_1 >= ... >= lambda_K`, the squared singular values, without a factor `1/N`
(the convention of WeightWatcher). Gradients use only the derivatives of the values,
`d lambda_i / dW = 2 sigma_i u_i v_i'`, and never divide by a difference of eigenvalues. Symmetric
functions can therefore be differentiated at repeated eigenvalues.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from bayes_htr.errors import SpectrumError
from bayes_htr.spectra.leading import top_pair
from bayes_htr.spectra.matrices import as_matrix, check_finite, working


def singular_values(W: Any, name: str = "the matrix") -> Tensor:
    """Return all singular values, descending.

    Args:
        W: `(out, ...)`: a matrix, or the weight of a convolution as `out x rest`.
        name: Name of the matrix in error messages.

    Returns:
        `(K,)`, differentiable.

    Raises:
        SpectrumError: `W` has fewer than two dimensions, no entries, or entries that are not
            finite.
    """
    matrix = as_matrix(working(W))
    check_finite(matrix, name)
    return torch.linalg.svdvals(matrix)


def spectrum(W: Any) -> Tensor:
    """Return the eigenvalues of `W'W`, or of `WW'` if that is smaller, in descending order.

    They are the squared singular values.

    Args:
        W: `(out, ...)`: a matrix, or the weight of a convolution as `out x rest`.

    Returns:
        `(K,)`, `K = min(rows, columns)`, differentiable.

    Raises:
        SpectrumError: `W` has fewer than two dimensions, no entries, or entries that are not
            finite.
    """
    return singular_values(W).square()


def tail_count(K: int, fraction: float) -> int:
    """Return the number of eigenvalues in a tail fraction: `k = max(1, floor(fraction * K))`."""
    return max(1, math.floor(fraction * K))


def hill(
    lam: Any,
    fraction: float = 0.5,
    *,
    exponent: Literal["density", "tail"] = "density",
    name: str = "the spectrum",
) -> Tensor:
    """Return Hill's estimate of the exponent of a power-law density from its largest values.

    `alpha = 1 + (1/k sum_{i<=k} ln(lambda_i / lambda_{k+1}))^-1`, `k = max(1, floor(fraction K))`.

    Args:
        lam: `(..., K)` eigenvalues in any order.
        fraction: The fraction of the spectrum that forms the tail, in (0, 1).
        exponent: `"density"` for `alpha`, or `"tail"` for the tail index `alpha - 1`.
        name: Name of the matrix in error messages.

    Returns:
        `(...)`, differentiable.

    Raises:
        SpectrumError: There is only one eigenvalue, the tail starts at zero, or ties make the
            estimate infinite.
        ValueError: `fraction` is outside (0, 1), or there is no such `exponent`.

    References:
        Hill (1975), Annals of Statistics 3(5).
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction={fraction} must lie between 0 and 1")
    if exponent not in ("density", "tail"):
        raise ValueError(f"exponent={exponent!r} must be 'density' or 'tail'")
    lam = working(lam).sort(dim=-1, descending=True).values
    K = lam.shape[-1]
    if K < 2:
        raise SpectrumError(
            f"{name} has one eigenvalue, and Hill's estimate needs two; give it a prior "
            "with a number for alpha, or leave it out by patterns"
        )
    k = tail_count(K, fraction)
    eps = torch.finfo(lam.dtype).eps
    start = lam[..., k]
    if not bool((start > (K * eps) ** 2 * lam[..., 0]).all()):
        raise SpectrumError(
            f"{name}: the tail of {k} of {K} eigenvalues starts at lambda_{k + 1} = "
            f"{start.min().item():.3g}, zero to working accuracy; take a smaller fraction "
            f"(now {fraction}) or a number for alpha"
        )
    mean_log = (lam[..., :k] / start[..., None]).log().mean(-1)
    if not bool((mean_log > 32 * eps).all()):
        raise SpectrumError(
            f"{name}: the {k + 1} largest eigenvalues are equal to working accuracy, so that "
            "Hill's estimate is infinite; take another fraction or a number for alpha"
        )
    return 1 / mean_log + (1.0 if exponent == "density" else 0.0)


def spectral_norm(W: Any) -> Tensor:
    """Return `sigma_1`, differentiable (a subgradient at ties), without decomposing the matrix."""
    matrix = as_matrix(working(W))
    check_finite(matrix, "the matrix")
    pair = top_pair(matrix.detach())
    return pair.u @ matrix @ pair.v


def frobenius_norm(W: Any) -> Tensor:
    """Return `(sum_ij W_ij^2)^(1/2)`."""
    return torch.linalg.vector_norm(working(W))


def nuclear_norm(W: Any) -> Tensor:
    """Return `sum_i sigma_i`; at zero singular values the gradient is a subgradient."""
    return singular_values(W).sum()


def stable_rank(W: Any) -> Tensor:
    """Return `|W|_F^2 / |W|_2^2`, between 1 and the rank; differentiable.

    Raises:
        SpectrumError: The matrix is zero, so that its stable rank is not defined.
    """
    sigma = spectral_norm(W)
    if not bool(sigma > 0):
        raise SpectrumError("the stable rank of a zero matrix is not defined")
    return working(W).square().sum() / sigma.square()

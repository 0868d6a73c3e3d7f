"""Singular vectors with their uniform law, and the density of a matrix that has them.

`W = U diag(sqrt(lambda)) V'` with `K` eigenvalues and sides `K <= M` has the volume element
`2^-K J(lambda) d lambda (dU)(dV)` (Muirhead 1982; Edelman & Rao 2005; `docs/theory.md`). If the
frames `U` and `V`, matrices with orthonormal columns, have the uniform law of Haar, the density of
`W` is that of its ordered spectrum divided by `C J`.

The orthonormal factor of a matrix of independent normal entries is Haar distributed if the signs of
the triangular factor's diagonal are fixed (Mezzadri 2007); LAPACK does not fix these signs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def frame_of(G: Tensor) -> Tensor:
    """Return the orthonormal factor of `G = QR` with a positive diagonal of `R`.

    Args:
        G: `(..., n, K)` of full rank, `n >= K`.

    Returns:
        `Q`, of the same shape, differentiable.
    """
    Q, R = torch.linalg.qr(G)
    signs = torch.where(R.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)
    return Q * signs.to(Q).unsqueeze(-2)


def haar(
    n: int,
    K: int,
    sample_shape: tuple[int, ...] = (),
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Draw frames of `K` orthonormal columns in `n` dimensions, uniformly distributed.

    Args:
        n: The number of rows.
        K: The number of columns, at most `n`.
        sample_shape: The shape of the batch of draws.
        generator: The random generator; PyTorch's global one by default.
        dtype: The dtype of the result.

    Returns:
        `(*sample_shape, n, K)`.
    """
    return frame_of(torch.randn(*sample_shape, n, K, generator=generator, dtype=dtype))


def log_jacobian(eigenvalues: Tensor, M: int) -> Tensor:
    """Return `log J = sum_{i<j} log |lambda_i - lambda_j| + (M - K - 1)/2 sum_i log lambda_i`.

    Args:
        eigenvalues: `(..., K)`, positive, in any order.
        M: The larger side of the matrix.

    Returns:
        `(...)`; minus infinity where two eigenvalues are equal. Use float64, because differences of
        close values are inaccurate in float32.
    """
    K = eigenvalues.shape[-1]
    i, j = torch.triu_indices(K, K, offset=1, device=eigenvalues.device)
    gaps = (eigenvalues[..., i] - eigenvalues[..., j]).abs().log().sum(-1)
    return gaps + (M - K - 1) / 2 * eigenvalues.log().sum(-1)


def log_frame_constant(K: int, M: int) -> float:
    """Return `log C = (MK + K^2)/2 log pi - log Gamma_K(M/2) - log Gamma_K(K/2)`.

    This is the volume of the manifolds of both frames, divided by the number `2^K` of signs that
    give the same matrix.
    """
    return (
        (M * K + K * K) / 2 * math.log(math.pi)
        - log_multivariate_gamma(M / 2, K)
        - log_multivariate_gamma(K / 2, K)
    )


def log_multivariate_gamma(a: float, K: int) -> float:
    """Return `log Gamma_K(a)`, the logarithm of the multivariate gamma function."""
    terms = (math.lgamma(a - i / 2) for i in range(K))
    return K * (K - 1) / 4 * math.log(math.pi) + math.fsum(terms)

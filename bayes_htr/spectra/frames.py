"""Frames: matrices with orthonormal columns, and their uniform (Haar) law.

The orthonormal factor of a matrix of independent normal entries is Haar distributed if the signs of
the triangular factor's diagonal are fixed (Mezzadri 2007); those that LAPACK returns are not.
"""

from __future__ import annotations

import torch
from torch import Tensor


def frame_of(G: Tensor) -> Tensor:
    """The orthonormal factor of `G = QR` with a positive diagonal of `R`.

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
    """Frames of `K` orthonormal columns in `n` dimensions, uniformly distributed.

    Args:
        n: Rows.
        K: Columns, at most `n`.
        sample_shape: Of the draws.
        generator: Of the draws; the global one by default.
        dtype: Of the result.

    Returns:
        `(*sample_shape, n, K)`.
    """
    return frame_of(torch.randn(*sample_shape, n, K, generator=generator, dtype=dtype))

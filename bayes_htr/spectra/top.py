"""The largest singular value and its vectors, without decomposing the matrix.

The method is thick-restarted block Krylov iteration with Rayleigh-Ritz (Golub, Luk & Overton 1981;
Wu & Simon 2000; Musco & Musco 2015). The space spanned by `X, (W'W) X, (W'W)^2 X, ...` is built
with full re-orthogonalisation and restarted from its best vectors when it becomes large. The
iteration stops if `|W'u - sigma v| <= tol * sigma`. If it starts from the singular vectors of a
nearby matrix, as in training, this takes only a few products with a thin block.

Every column of the starting block is perturbed by a little noise, so that the iteration also finds
a leading vector that is exactly orthogonal to the old block. This happens for diagonal matrices. In
float32, the residual reveals such a vector only if its singular value is larger by a fraction of
about `2e-4 sqrt(K)`. Otherwise the previous leading vector is returned. Ties of the largest
singular value cause no difficulty: some vector of the leading space is returned.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 8
"""The number of columns of the block that is passed on, as many as `follow` uses."""

_ITERATED = 4
"""The number of those columns that `top_pair` iterates. With more columns the Krylov space would be
less deep, but a largest value without a gap needs depth."""

SMALL = 64
"""With up to this many singular values, the Krylov space would be the whole space, so the matrix is
decomposed directly."""

_COLUMNS = 120
"""The size of the Krylov space at which it is restarted."""

_KEPT = 24
"""The number of best vectors from which the Krylov space is restarted."""

_RESTARTS = 40
_NOISE = 1e-2
_TOL = {torch.float32: 4e-6, torch.float64: 1e-13}


class TopPair(NamedTuple):
    """The leading singular triplet of a matrix, and the block from which the next call starts."""

    sigma: Tensor
    u: Tensor
    v: Tensor
    block: Tensor


def start_block(shape: tuple[int, int], *, seed: int = 0) -> Tensor:
    """A float64 starting block of shape `(min(shape), BLOCK)`, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    K = min(shape)
    return torch.randn(K, min(BLOCK, K), generator=generator, dtype=torch.float64)


def top_pair(W: Tensor, block: Tensor | None = None, *, tol: float | None = None) -> TopPair:
    """The largest singular value of `W` with its vectors.

    Args:
        W: `(m, n)`, float32 or float64, finite.
        block: `(min(m, n), BLOCK)`, the starting block; a fixed random block by default.
        tol: Largest residual relative to `sigma`; by default `4e-6` in float32 and `1e-13` in
            float64.

    Returns:
        `sigma` (0-d), `u` `(m,)` and `v` `(n,)` with `W v = sigma u` and `W'u = sigma v` to within
        `tol sigma`, and the block for the next call: `BLOCK` columns, or fewer for a matrix of low
        rank. No gradient is recorded. If the residual remains larger after 40 restarts (a leading
        cluster of many nearly equal values), the matrix is decomposed.
    """
    with torch.no_grad():
        tall = W if W.shape[0] >= W.shape[1] else W.T
        block = start_block((W.shape[0], W.shape[1])) if block is None else block
        # By a power of two, which is exact: squares of the entries stay within float32.
        exponent = torch.frexp(W.abs().max()).exponent.clamp(min=-100)
        sigma, u, v, block = _iterate(
            torch.ldexp(tall, -exponent),
            block.to(W.device, W.dtype),
            _TOL[W.dtype] if tol is None else tol,
        )
        sigma = torch.ldexp(sigma, exponent)
        if W.shape[0] < W.shape[1]:
            u, v = v, u
    return TopPair(sigma, u, v, block)


def _iterate(W: Tensor, block: Tensor, tol: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`sigma`, `u`, `v` and a block of a tall matrix. Bases are stored in rows.

    On a CPU, multiplying from the left by a thin matrix of rows is several times faster than
    multiplying by one of columns.
    """
    K = W.shape[1]
    if K <= SMALL:
        sigma, u, V, _ = _ritz(torch.eye(K, dtype=W.dtype, device=W.device), W.T)
        return sigma, u, V[0], V[:BLOCK].T.contiguous()
    noise = start_block((K, K), seed=1).to(W)
    Q = torch.linalg.qr(block[:, :_ITERATED] + _NOISE / K**0.5 * noise[:, :_ITERATED]).Q.T
    Y = front = Q @ W.T
    for _ in range(_RESTARTS):
        check = 3 * _ITERATED
        while True:
            new = _extend(front @ W, Q)
            front = new @ W.T
            Q, Y = torch.cat([Q, new]), torch.cat([Y, front])
            full = len(Q) > min(_COLUMNS, K) - _ITERATED or len(new) == 0
            if full or len(Q) >= check:
                sigma, u, V, vectors = _ritz(Q, Y)
                if _converged(W, sigma, u, V[0], tol):
                    return sigma, u, V[0], V[:BLOCK].T.contiguous()
                check = len(Q) * 5 // 4
            if full:
                break
        Q, Y = V[:_KEPT], vectors[:_KEPT] @ Y
        front = Y[:_ITERATED]
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return S[0], U[:, 0], Vh[0], Vh[:BLOCK].T.contiguous()


def _extend(Z: Tensor, Q: Tensor) -> Tensor:
    """An orthonormal basis of the rows `Z` outside the span of `Q`.

    It has fewer rows if their rank is lower. One projection leaves a rounding error as large as the
    removed part, so there are two. Nearly dependent rows need a third one, because orthonormalising
    them amplifies their rounding error along `Q`.
    """
    room = Q.shape[1] - len(Q)
    floor = 1e2 * torch.finfo(Z.dtype).eps * torch.linalg.matrix_norm(Z)
    for _ in range(2):
        Z = Z - (Z @ Q.T) @ Q
    lengths = torch.linalg.vector_norm(Z, dim=1)
    columns, R = torch.linalg.qr(Z.T)
    kept = R.diagonal().abs() > floor
    if not bool((kept & (R.diagonal().abs() > 0.5 * lengths)).all()):
        columns = columns[:, kept]
        columns = torch.linalg.qr(columns - Q.T @ (Q @ columns)).Q
    return columns[:, :room].T.contiguous()


def _ritz(Q: Tensor, Y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rayleigh-Ritz on the space of the rows `Q` with `Y = Q W'`.

    Returns `sigma` and `u` of the best triplet, all right vectors in descending order as rows, and
    the same vectors in coordinates of `Q`.
    """
    vectors = torch.linalg.eigh(Y @ Y.T).eigenvectors.flip(1).T
    y = vectors[0] @ Y
    sigma = torch.linalg.vector_norm(y)
    # A zero matrix has no left vector of its own: any unit vector is one.
    first = torch.zeros_like(y)
    first[0] = 1.0
    u = torch.where(sigma > 0, y / sigma.clamp_min(torch.finfo(y.dtype).tiny), first)
    return sigma, u, vectors @ Q, vectors


def _converged(W: Tensor, sigma: Tensor, u: Tensor, v: Tensor, tol: float) -> bool:
    residual = torch.linalg.vector_norm(W.T @ u - sigma * v)
    return bool(residual <= tol * sigma)

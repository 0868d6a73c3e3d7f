"""The largest singular value and its vectors, without decomposing the matrix.

Thick-restarted block Krylov iteration with Rayleigh-Ritz (Golub, Luk & Overton 1981; Wu & Simon
2000; Musco & Musco 2015): the space spanned by `X, (W'W) X, (W'W)^2 X, ...` is built with full
re-orthogonalisation, restarted from its best vectors when it is large, and left when
`|W'u - sigma v| <= tol * sigma`. That is a few products with a thin block where it starts from the
vectors of a nearby matrix, as in training.

The start is disturbed by a little noise in every column, so that a leading vector to which the old
block is exactly orthogonal is found too (diagonal matrices do that). In float32 such a vector shows
in the residual only where its singular value leads by about `2e-4 sqrt(K)`, relatively; below
that the former leading one is returned. Ties of the largest singular value are no difficulty:
some vector of the leading space is returned.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 8
"""Columns of the block that is handed on: those that `follow` takes."""

_ITERATED = 4
"""Columns of the block that `top_pair` iterates, which it takes from those: with more the space
would be shallower, and a top without a gap needs depth."""

SMALL = 64
"""Up to this many singular values the Krylov space would be everything: it is taken at once."""

_COLUMNS = 120
"""The Krylov space's size at which it is restarted ..."""

_KEPT = 24
"""... from this many of its best vectors."""

_RESTARTS = 40
_NOISE = 1e-2
_TOL = {torch.float32: 4e-6, torch.float64: 1e-13}


class TopPair(NamedTuple):
    """The leading singular triplet of a matrix and the block to start the next call from."""

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
        block: `(min(m, n), BLOCK)`, where to start; a fixed random block by default.
        tol: How large the residual may be, relative to `sigma`; by default `4e-6` in float32 and
            `1e-13` in float64.

    Returns:
        `sigma` (0-d), `u` `(m,)` and `v` `(n,)` with `W v = sigma u` and `W'u = sigma v` to within
        `tol sigma`, and the block to go on from: `BLOCK` columns, or fewer of a matrix of low
        rank. No gradient is recorded. If the residual does not fall below that in 40 restarts (a
        leading cluster of many nearly equal values), the matrix is decomposed.
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
    """`sigma`, `u`, `v` and a block of a tall matrix. Bases are kept in rows.

    A thin product from the left, with rows, is several times faster on a CPU than one with columns.
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
    """The part of the rows `Z` outside the span of `Q`, orthonormal; fewer where of lower rank.

    Two passes: one leaves rounding of the size of what was taken away. A third where rows are
    nearly dependent: orthonormalising them enlarges what rounding they have along `Q`.
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

    Returns the best triplet's `sigma` and `u`, all right vectors by order, in rows, and the same in
    coordinates of `Q`.
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

"""The leading singular triplet of a matrix, without decomposing it.

`top_pair` finds it from scratch, by thick-restarted block Krylov iteration with
Rayleigh-Ritz (Golub, Luk & Overton 1981; Wu & Simon 2000; Musco & Musco 2015). The space spanned by
`X, (W'W) X, (W'W)^2 X, ...` is built with full re-orthogonalisation, and is restarted from its best
vectors when it is large. The iteration ends when `|W'u - sigma v| <= tol * sigma`. If it starts
from the vectors of a nearby matrix, as in training, it takes a few products with a thin block.

One column of the start is noise, so that a leading vector that is orthogonal to the old block is
found too. Convergence is first tested when this column has passed through four products with
`W'W`, which raise a leading vector that stands out from the others by a tenth far above them. In
float32 a lead of less than a fraction of about `2e-4 sqrt(K)` cannot be told from the tolerance,
and the former leading vector can be returned. If the largest singular value is tied, some vector of
the leading space is returned.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 8
"""The number of columns of the block that is passed on, as many as `follow` uses."""

_ITERATED = 4
"""The number of columns that `top_pair` iterates: the first of that block, and one of noise. With
more columns the Krylov space would be less deep, but a largest value without a gap needs depth."""

_DEPTH = 5
"""The number of blocks in the Krylov space when convergence is first tested."""

SMALL = 64
"""With up to this many singular values, the Krylov space would be the whole space, so the matrix is
decomposed directly."""

_COLUMNS = 120
"""The size of the Krylov space at which it is restarted."""

_KEPT = 24
"""The number of best vectors from which the Krylov space is restarted."""

_RESTARTS = 40
NOISE = 1e-2
"""The length of the noise that is added to vectors of unit length."""

_TOL = {torch.float32: 4e-6, torch.float64: 1e-13}


Total = Callable[[Tensor], Tensor]
"""The sum of a tensor over the processes that have the rows of one matrix."""


class FactorNeededError(Exception):
    """A Gram matrix has too few digits, or an iteration has not converged.

    Processes that have the rows of one matrix then compute a triangular factor of it.
    """


class TopPair(NamedTuple):
    """The leading singular triplet of a matrix, and the block from which the next call starts."""

    sigma: Tensor
    u: Tensor
    v: Tensor
    block: Tensor


def start_block(shape: tuple[int, int], *, seed: int = 0) -> Tensor:
    """Return a float64 starting block `(K, min(BLOCK, K))` with `K = min(shape)`.

    It is the same for the same seed.
    """
    generator = torch.Generator().manual_seed(seed)
    K = min(shape)
    return torch.randn(K, min(BLOCK, K), generator=generator, dtype=torch.float64)


def noise_columns(K: int, columns: int, *, seed: int) -> Tensor:
    """Return float64 columns `(K, columns)` of length about 1, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(K, columns, generator=generator, dtype=torch.float64) / K**0.5


def top_pair(W: Tensor, block: Tensor | None = None, *, tol: float | None = None) -> TopPair:
    """Return the largest singular value of `W` with its vectors.

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
        scale = _power_of_two(torch.stack(torch.aminmax(W)).abs().max())
        sigma, u, v, block = _iterate(
            tall * scale,
            block.to(W.device, W.dtype),
            _TOL[W.dtype] if tol is None else tol,
        )
        sigma = sigma / scale
        if W.shape[0] < W.shape[1]:
            u, v = v, u
    return TopPair(sigma, u, v, block)


def top_pair_of_rows(
    rows: Tensor, block: Tensor | None, largest: float, total: Total, *, tol: float | None = None
) -> TopPair:
    """Return the largest singular value of a tall matrix whose rows several processes have.

    All of them iterate in step. They exchange one thin block for each block product, and a few
    numbers wherever convergence is tested.

    Args:
        rows: `(r, K)`, this process's rows; `K` above `SMALL`.
        block: As in `top_pair`, the same in all processes.
        largest: The largest absolute entry of the whole matrix.
        total: Sums a tensor over the processes.
        tol: As in `top_pair`.

    Returns:
        The triplet, with this process's rows of `u`.

    Raises:
        FactorNeededError: The residual remains larger than `tol` after 40 restarts.
    """
    with torch.no_grad():
        K = rows.shape[1]
        block = start_block((K, K)) if block is None else block
        scale = _power_of_two(rows.new_tensor(largest))
        sigma, u, v, block = _iterate(
            rows * scale,
            block.to(rows.device, rows.dtype),
            _TOL[rows.dtype] if tol is None else tol,
            total,
        )
        return TopPair(sigma / scale, u, v, block)


def _power_of_two(largest: Tensor) -> Tensor:
    """Return the power of two, 0-d, by which a largest absolute entry is brought near 1."""
    most = math.frexp(torch.finfo(largest.dtype).max)[1] - 3  # its inverse is a normal number
    exponent = torch.frexp(largest).exponent.clamp(-most, most)
    return torch.ldexp(torch.ones_like(largest), -exponent)


def _iterate(
    W: Tensor, block: Tensor, tol: float, total: Total | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute `sigma`, `u`, `v` and a block of a tall matrix. Bases are stored in rows.

    On a CPU, multiplying from the left by a thin matrix of rows is several times faster than
    multiplying by one of columns. If `total` is given, other processes have other rows of `W`, and
    so of `u`.
    """
    K = W.shape[1]
    if K <= SMALL:
        sigma, u, V, _ = _ritz(torch.eye(K, dtype=W.dtype, device=W.device), W.T)
        return sigma, u, V[0], V[:BLOCK].T.contiguous()
    noise = noise_columns(K, _ITERATED, seed=1).to(W)
    start = block[:, : _ITERATED - 1] + NOISE * noise[:, 1:]
    Q = torch.linalg.qr(torch.cat([start, noise[:, :1]], 1)).Q.T
    Y = front = Q @ W.T
    for _ in range(_RESTARTS):
        check = _DEPTH * _ITERATED
        while True:
            new = _extend(front @ W if total is None else total(front @ W), Q)
            front = new @ W.T
            Q, Y = torch.cat([Q, new]), torch.cat([Y, front])
            full = len(Q) > min(_COLUMNS, K) - _ITERATED or len(new) == 0
            if full or len(Q) >= check:
                sigma, u, V, vectors = _ritz(Q, Y, total)
                if _converged(W, sigma, u, V[0], tol, total):
                    return sigma, u, V[0], V[:BLOCK].T.contiguous()
                check = len(Q) * 5 // 4
            if full:
                break
        Q, Y = V[:_KEPT], vectors[:_KEPT] @ Y
        front = Y[:_ITERATED]
    if total is not None:
        raise FactorNeededError
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return S[0], U[:, 0], Vh[0], Vh[:BLOCK].T.contiguous()


def _extend(Z: Tensor, Q: Tensor) -> Tensor:
    """Return an orthonormal basis of the rows `Z` outside the span of `Q`.

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


def _ritz(
    Q: Tensor, Y: Tensor, total: Total | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Apply the Rayleigh-Ritz method to the space of the rows `Q` with `Y = Q W'`.

    It returns `sigma` and `u` of the best triplet, all right vectors in descending order as rows,
    and the same vectors in coordinates of `Q`.
    """
    gram = Y @ Y.T if total is None else total(Y @ Y.T)
    vectors = torch.linalg.eigh(gram).eigenvectors.flip(1).T
    y = vectors[0] @ Y
    if total is not None:
        sigma = total(y.square().sum()).sqrt()
        return sigma, y / sigma.clamp_min(torch.finfo(y.dtype).tiny), vectors @ Q, vectors
    sigma = torch.linalg.vector_norm(y)
    # A zero matrix has no left vector of its own: any unit vector is one.
    first = torch.zeros_like(y)
    first[0] = 1.0
    u = torch.where(sigma > 0, y / sigma.clamp_min(torch.finfo(y.dtype).tiny), first)
    return sigma, u, vectors @ Q, vectors


def _converged(
    W: Tensor, sigma: Tensor, u: Tensor, v: Tensor, tol: float, total: Total | None
) -> bool:
    product = W.T @ u if total is None else total(W.T @ u)
    residual = torch.linalg.vector_norm(product - sigma * v)
    return bool(residual <= tol * sigma)

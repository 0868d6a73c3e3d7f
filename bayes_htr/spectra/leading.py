"""The leading singular values of a matrix with their vectors, without decomposing it.

`top_pair` finds the largest from scratch, by thick-restarted block Krylov iteration with
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

`follow` keeps several triplets while the matrix changes. Between two calls of an optimiser a matrix
moves little, so that one block power step from the vectors it had is enough. Near a tie several
triplets share the gradient of the largest singular value, which has no derivative there. Most
matrices are small, so the time of a step depends on the number of PyTorch operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
_NOISE = 1e-2
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


def _noise(K: int, columns: int, *, seed: int) -> Tensor:
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
    noise = _noise(K, _ITERATED, seed=1).to(W)
    start = block[:, : _ITERATED - 1] + _NOISE * noise[:, 1:]
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


class Cluster(NamedTuple):
    """The leading singular triplets of a matrix, in ascending order of their values.

    Attributes:
        values: `(b,)`, singular values, ascending.
        left: `(b, m)`, left singular vectors in rows.
        right: `(b, n)`, right singular vectors in rows.

    The rows of the longer side are orthonormal. The rows of the shorter side have unit length, and
    they are orthogonal as far as they are singular vectors. If a value is lost in the rounding
    error of the largest one, its rows are shorter on both sides. After `of`, only the last triplet
    is a singular triplet: the other values are zero, and the rows of the shorter side are starting
    vectors.
    """

    values: Tensor
    left: Tensor
    right: Tensor

    @classmethod
    def of(cls, pair: TopPair, wide: bool | None = None) -> Cluster:
        """Return a cluster with a single triplet, and the block of vectors for the next step.

        `wide` says whether rows are the shorter side. It is needed if this process has only a part
        of the longer vector; otherwise the lengths of both vectors tell.
        """
        short = pair.block.flip(1).T.contiguous()
        wide = len(pair.u) < len(pair.v) if wide is None else wide
        vector = pair.v if wide else pair.u
        long = pair.block.new_zeros(len(short), len(vector))
        long[-1] = vector
        values = pair.block.new_zeros(len(short))
        values[-1] = pair.sigma
        return cls(values, short, long) if wide else cls(values, long, short)

    def block(self, *, wide: bool) -> Tensor:
        """Return the vectors of the shorter side as a block from which `top_pair` starts.

        Args:
            wide: Whether rows are the shorter side.
        """
        return (self.left if wide else self.right).flip(0).T

    @property
    def shape(self) -> tuple[int, int]:
        """`(m, n)`, the shape of the matrix."""
        return self.left.shape[1], self.right.shape[1]

    @property
    def sigma(self) -> Tensor:
        """The largest singular value, 0-d."""
        return self.values.max()

    def mean(self, width: float, count: int | None = None) -> tuple[Tensor, Tensor]:
        """Return an epsilon-subgradient of the largest singular value, as left and right factors.

        The subgradient is the mean `sum_i w_i u_i v_i'` with the weights of `shares`. Its inner
        product with the matrix is smaller than `sigma` by a fraction of at most `width log(b)`.

        Args:
            width: The width of the weights, as in `shares`.
            count: The number of largest triplets whose weights are not negligible; all by default.
        """
        count = len(self.values) if count is None else count
        if count == 1:
            return self.left[-1], self.right[-1]
        values = self.values[-count:]
        largest = values.max().clamp(min=torch.finfo(values.dtype).tiny)
        weights = torch.softmax(values / (width * largest), 0).unsqueeze(1)
        return (weights * self.left[-count:]).T, self.right[-count:]


def shares(values: Sequence[float], width: float) -> list[float]:
    """Return the weights `exp((sigma_i / sigma_1 - 1) / width)` of finite `values`, with sum 1."""
    largest = max(values)
    scale = width * max(largest, 1e-300)
    weights = [math.exp((value - largest) / scale) for value in values]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


class Followed(NamedTuple):
    """A cluster after one step of `follow`.

    Attributes:
        cluster: The new cluster.
        kept: `(b,)`, the values `u_i' W v_i` of the previous triplets in the current matrix. The
            difference between the weighted means of the new values and of these shows how far the
            cluster has turned.
        squared_norm: `|W|_F^2`, 0-d, which also grows with directions outside the cluster.
    """

    cluster: Cluster
    kept: Tensor
    squared_norm: Tensor


class Projection(NamedTuple):
    """A matrix multiplied by the shorter vectors of a cluster: what a step of `follow` is made of.

    Attributes:
        products: `(b, M)`, the shorter vectors times the matrix.
        thin: `(b, K)`, the products times the matrix.
        gram: `(b, b)`, the inner products of the products.
        kept: `(b,)`, the values of the triplets in this matrix.
        squared_norm: `|W|_F^2`, 0-d.

    If processes have parts of the longer side, they have parts of `products`, and the others are
    sums over processes.
    """

    products: Tensor
    thin: Tensor
    gram: Tensor
    kept: Tensor
    squared_norm: Tensor


def project(W: Tensor, before: Cluster, *, wide: bool) -> Projection:
    """Return the projection of `W` `(m, n)`, whose rows are the shorter side if it is wide."""
    with torch.no_grad():
        W, _, products, *rest = _multiplied(W, before, wide=wide)
        return Projection(products, products @ W.T, products @ products.T, *rest)


def _multiplied(
    W: Tensor, before: Cluster, *, wide: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return `W` with its shorter side as rows, short vectors and three parts of `Projection`."""
    flat = W.reshape(-1)
    W = W if wide else W.T
    short, long = (before.left, before.right) if wide else (before.right, before.left)
    products = short @ W
    return W, short, products, torch.linalg.vecdot(products, long), torch.dot(flat, flat)


def follow(W: Tensor, before: Cluster, sigma: float) -> Followed:
    """Return one block power step with Rayleigh-Ritz after a small change of the matrix.

    The step costs two products with a thin block. The resulting values are lower bounds of the
    singular values. Their accuracy depends on the step and not on a tolerance. A little noise is
    added to the first vector, so that the step can find a new leading vector that is orthogonal to
    all previous ones.

    Args:
        W: `(m, n)`, float32 or float64. If it is not finite, nothing in the result is finite.
        before: The cluster of the previous matrix.
        sigma: The largest singular value of the previous matrix. If it is less than an eighth of
            the current one, the result may not be finite.
    """
    with torch.no_grad():
        wide = W.shape[0] < W.shape[1]
        W, short, products, kept, squared_norm = _multiplied(W, before, wide=wide)
        products = torch.addmm(products, short @ short.T, products, beta=1.5, alpha=-0.5)
        scaled, floor = _scaled_rotation(products @ products.T, _constants(short).identity, sigma)
        long = scaled @ products
        cluster = _cluster(long @ W.T, long, floor, wide=wide)
        return Followed(cluster, kept, squared_norm)


def turned(projection: Projection, before: Cluster, sigma: float, *, wide: bool) -> Followed:
    """Return the step of `follow` from the projection of the present matrix.

    The rows of the matrix are sharded between processes. The step loses more digits than `follow`,
    but needs no second sum over processes.
    """
    with torch.no_grad():
        products, thin, gram, kept, squared_norm = projection
        short = before.left if wide else before.right
        identity = _constants(short).identity
        newton = torch.addmm(identity, short, short.T, beta=1.5, alpha=-0.5)
        scaled, floor = _scaled_rotation(newton @ gram @ newton, identity, sigma)
        scaled = scaled @ newton
        cluster = _cluster(scaled @ thin, scaled @ products, floor, wide=wide)
        return Followed(cluster, kept, squared_norm)


def _scaled_rotation(gram: Tensor, identity: Tensor, sigma: float) -> tuple[Tensor, float]:
    """Return the `(b, b)` matrix that turns products into Rayleigh-Ritz vectors, and a floor.

    The products are those of rows that a step of Newton's iteration has made orthonormal, as
    Rayleigh-Ritz requires, and `gram` has their inner products. The Rayleigh-Ritz vectors have unit
    length. Singular values below the floor are rounding errors relative to the largest one. If
    `gram` is not finite, the matrix is NaN.
    """
    limits = torch.finfo(gram.dtype)
    floor = max((_ROUNDING * limits.eps) ** 0.5 * sigma, limits.tiny**0.5)
    try:
        ritz, rotation = torch.linalg.eigh(torch.add(gram, identity, alpha=floor**2))
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        return torch.full_like(gram, torch.nan), floor
    return (rotation * ritz.rsqrt_()).T, floor


def _cluster(short: Tensor, long: Tensor, floor: float, *, wide: bool) -> Cluster:
    """Return the cluster of unit vectors `(b, M)` and their products `(b, K)` with the matrix."""
    lengths = torch.linalg.vector_norm(short, dim=1, keepdim=True)
    short = torch.addcdiv(_constants(short).noise, short, lengths.clamp(min=floor))
    left, right = (short, long) if wide else (long, short)
    return Cluster(lengths.squeeze(1), left, right)


_ROUNDING = 64.0


class _Constants(NamedTuple):
    """Tensors that do not depend on the matrix: `(b, b)`, and `(b, K)` with noise in row 0."""

    identity: Tensor
    noise: Tensor


_known: dict[tuple[torch.Size, torch.dtype, torch.device], _Constants] = {}


def _constants(like: Tensor) -> _Constants:
    key = (like.shape, like.dtype, like.device)
    if key not in _known:
        b, K = like.shape
        noise = torch.zeros_like(like)
        if 1 < b < K:
            noise[0] = _NOISE * _noise(K, 1, seed=2)[:, 0].to(like)
        _known[key] = _Constants(torch.eye(b, dtype=like.dtype, device=like.device), noise)
    return _known[key]

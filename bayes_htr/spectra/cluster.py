"""The leading singular triplets of a matrix, which follow it while it changes.

Between two calls of an optimiser a matrix moves little, so that one block power step from the
vectors it had is enough. Near a tie several triplets share the gradient of the largest singular
value, which has no derivative there. Most matrices are small, so the time of a step depends on the
number of PyTorch operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bayes_htr.spectra.leading import NOISE, TopPair, noise_columns


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
            noise[0] = NOISE * noise_columns(K, 1, seed=2)[:, 0].to(like)
        _known[key] = _Constants(torch.eye(b, dtype=like.dtype, device=like.device), noise)
    return _known[key]

"""The leading singular triplets of a matrix, updated while the matrix changes.

A matrix changes little between two steps of an optimiser, so one block power step from the previous
singular vectors is sufficient. Near a tie, the largest singular value has no derivative, and
several triplets share its gradient. Most matrices are small, so the run time depends on the number
of operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bayes_htr.spectra.top import TopPair, start_block

_NOISE = 1e-2


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
    def of(cls, pair: TopPair) -> Cluster:
        """A cluster with a single triplet, and the block of vectors for the next step."""
        short = pair.block.flip(1).T.contiguous()
        wide = len(pair.u) < len(pair.v)
        long = pair.block.new_zeros(len(short), max(len(pair.u), len(pair.v)))
        long[-1] = pair.v if wide else pair.u
        values = pair.block.new_zeros(len(short))
        values[-1] = pair.sigma
        return cls(values, short, long) if wide else cls(values, long, short)

    @property
    def shape(self) -> tuple[int, int]:
        """`(m, n)`, the shape of the matrix."""
        return self.left.shape[1], self.right.shape[1]

    @property
    def sigma(self) -> Tensor:
        """The largest singular value, 0-d."""
        return self.values.max()

    def mean(self, width: float, count: int | None = None) -> tuple[Tensor, Tensor]:
        """An epsilon-subgradient of the largest singular value, as the factors of a `Factors`.

        It is the mean `sum_i w_i u_i v_i'` with the weights of `shares`. Its inner product with the
        matrix is smaller than `sigma` by a fraction of at most `width log(b)`.

        Args:
            width: As in `shares`.
            count: The number of largest triplets whose weights are not negligible; all by default.
        """
        count = len(self.values) if count is None else count
        if count == 1:
            return self.left[-1], self.right[-1]
        values = self.values[-count:]
        largest = values.max().clamp(min=torch.finfo(values.dtype).tiny)
        weights = torch.softmax(values / (width * largest), 0).unsqueeze(1)
        return (weights * self.left[-count:]).T, self.right[-count:]

    def top(self) -> TopPair:
        """The triplet with the largest value."""
        i = self.values.argmax()
        short = self.left if self.left.shape[1] < self.right.shape[1] else self.right
        block = torch.linalg.qr(short.flip(0).T).Q
        return TopPair(self.values[i], self.left[i], self.right[i], block)


def shares(values: Sequence[float], width: float) -> list[float]:
    """The weights `exp((sigma_i / sigma_1 - 1) / width)` of finite `values`, with sum 1."""
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
    """

    cluster: Cluster
    kept: Tensor


def follow(W: Tensor, before: Cluster, sigma: float) -> Followed:
    """One block power step with Rayleigh-Ritz after a small change of the matrix.

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
        limits = torch.finfo(W.dtype)
        wide = W.shape[0] < W.shape[1]
        if not wide:
            W = W.T
        short, long = (before.left, before.right) if wide else (before.right, before.left)
        products = short @ W
        kept = torch.linalg.vecdot(products, long)
        # As if the rows had been made orthonormal by a step of Newton's iteration: Rayleigh-Ritz
        # asks for that, and they nearly are.
        products = torch.addmm(products, short @ short.T, products, beta=1.5, alpha=-0.5)
        constants = _constants(short)
        # What is rounding beside the largest is not to be scaled up to unit vectors.
        floor = max((_ROUNDING * limits.eps) ** 0.5 * sigma, limits.tiny**0.5)
        gram = torch.addmm(constants.identity, products, products.T, beta=floor**2)
        try:
            ritz, rotation = torch.linalg.eigh(gram)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            return Followed(Cluster(*(torch.full_like(t, torch.nan) for t in before)), kept)
        long = (rotation * ritz.rsqrt_()).T @ products
        short = long @ W.T
        lengths = torch.linalg.vector_norm(short, dim=1, keepdim=True)
        short = torch.addcdiv(constants.noise, short, lengths.clamp(min=floor))
        left, right = (short, long) if wide else (long, short)
        return Followed(Cluster(lengths.squeeze(1), left, right), kept)


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
            noise[0] = start_block((K, K), seed=2)[:, 0].to(like) * (_NOISE / K**0.5)
        _known[key] = _Constants(torch.eye(b, dtype=like.dtype, device=like.device), noise)
    return _known[key]

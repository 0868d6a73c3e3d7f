"""The leading singular triplets of a matrix, followed while it changes.

Between two calls of an optimiser a matrix moves little, so that one block power step from the
vectors it had is enough; near a tie several triplets share the gradient of the largest singular
value, which has no derivative there. Small matrices are the rule, so what counts is how few
operations there are.
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
    """The leading singular triplets of a matrix, as `follow` keeps them; the leading one last.

    Attributes:
        values: `(b,)`, singular values, from below.
        left: `(b, m)`, left vectors in rows.
        right: `(b, n)`, right vectors in rows.

    The rows of the longer side are orthonormal, those of the shorter one of unit length and as
    nearly orthogonal as they are singular vectors; where a value is lost in the rounding of the
    largest, both are shorter. After `of`, only the last triplet is one: the
    other values are zero, and the shorter side has a place to start from.
    """

    values: Tensor
    left: Tensor
    right: Tensor

    @classmethod
    def of(cls, pair: TopPair) -> Cluster:
        """One triplet alone, with the block to go on from."""
        short = pair.block.flip(1).T.contiguous()
        wide = len(pair.u) < len(pair.v)
        long = pair.block.new_zeros(len(short), max(len(pair.u), len(pair.v)))
        long[-1] = pair.v if wide else pair.u
        values = pair.block.new_zeros(len(short))
        values[-1] = pair.sigma
        return cls(values, short, long) if wide else cls(values, long, short)

    @property
    def shape(self) -> tuple[int, int]:
        """`(m, n)`, of the matrix."""
        return self.left.shape[1], self.right.shape[1]

    @property
    def sigma(self) -> Tensor:
        """The largest singular value, 0-d."""
        return self.values.max()

    def mean(self, width: float, count: int | None = None) -> tuple[Tensor, Tensor]:
        """An epsilon-subgradient of the largest singular value as the factors of a `Factors`.

        It is the mean `sum_i w_i u_i v_i'` with weights as in `shares`: its inner product with the
        matrix falls short of `sigma` by a fraction of at most `width log(b)`.

        Args:
            width: As in `shares`.
            count: How many of the last have weights that are not negligible; all by default.
        """
        count = len(self.values) if count is None else count
        if count == 1:
            return self.left[-1], self.right[-1]
        values = self.values[-count:]
        largest = values.max().clamp(min=torch.finfo(values.dtype).tiny)
        weights = torch.softmax(values / (width * largest), 0).unsqueeze(1)
        return (weights * self.left[-count:]).T, self.right[-count:]

    def top(self) -> TopPair:
        """The triplet of the largest value."""
        i = self.values.argmax()
        short = self.left if self.left.shape[1] < self.right.shape[1] else self.right
        block = torch.linalg.qr(short.flip(0).T).Q
        return TopPair(self.values[i], self.left[i], self.right[i], block)


def shares(values: Sequence[float], width: float) -> list[float]:
    """The weights `exp((sigma_i / sigma_1 - 1) / width)` over their sum, of finite `values`."""
    largest = max(values)
    scale = width * max(largest, 1e-300)
    weights = [math.exp((value - largest) / scale) for value in values]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


class Followed(NamedTuple):
    """A cluster after one step of `follow`.

    Attributes:
        cluster: The cluster.
        kept: `(b,)`, `u_i'W v_i` of the triplets of the cluster before in the present matrix: how
            far the weighted mean of these falls behind that of the new values is how far the
            cluster has turned.
    """

    cluster: Cluster
    kept: Tensor


def follow(W: Tensor, before: Cluster, sigma: float) -> Followed:
    """One block power step with Rayleigh-Ritz after a matrix that has changed a little.

    Costs two products with a thin block. Values are lower bounds of the singular values; how close
    depends on the step and not on a tolerance. A little noise is added to the first vector, so
    that a new leading one to which all are orthogonal can grow.

    Args:
        W: `(m, n)`, float32 or float64. If it is not finite, nothing in the result is.
        before: The cluster of the matrix before.
        sigma: Its largest singular value. Where this is less than an eighth of what it has become,
            the result may not be finite.
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
    """What does not depend on the matrix: `(b, b)`, and `(b, K)` with noise in the first row."""

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

"""The sites of singular vectors: a matrix whose orthonormal factor is uniformly distributed.

If `X` has a density that depends on `X'X` alone, its orthonormal factor (`X = QR`, with a positive
diagonal of `R`) has the uniform law of Haar, and it is independent of `X'X` (Muirhead 1982, theorem
2.1.13). Normal entries are one such law, but a poor choice for a Markov chain. A square `X` is
singular on a surface that has one dimension less than the space, its last orthonormal column
changes sign there, and the chain meets this jump again and again. Short columns also turn fast
where long ones turn slowly, so that no step size suits both.

A `FrameSite` therefore takes `X'X` from a Wishart law with mean `I` and more degrees of freedom
than `X` has rows. Its density vanishes at singular matrices, which keeps a chain on one side of
them, and `X'X` stays near `I`. A chain on one side still reaches every matrix `W = U diag(s) V'`
that is not square, since the orthonormal frames of its longer side are connected. A square `W` has
two sides, a positive and a negative determinant: `inference/chains.py` jumps from one to the other.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from bayes_htr.spectra import haar
from bayes_htr.spectra.haar import log_multivariate_gamma

_MORE_DEGREES = 8


class FrameSite(TorchDistribution):
    """The law of an `(n, K)` matrix whose orthonormal factor is Haar distributed.

    Args:
        rows: `n`.
        columns: `K`, at most `n`.
        like: A tensor of the dtype and on the device of the values.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012  (of torch's base class)
    support = constraints.independent(constraints.real, 2)

    def __init__(self, rows: int, columns: int, like: Tensor) -> None:
        self.rows, self.columns, self.like = rows, columns, like
        self.degrees = rows + _MORE_DEGREES
        super().__init__(torch.Size(), torch.Size((rows, columns)), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> FrameSite:
        """Return the same law, because it has no batches.

        Raises:
            ValueError: `batch_shape` is not empty.
        """
        if torch.Size(batch_shape):
            raise ValueError(f"a frame takes no batch shape, and {tuple(batch_shape)} was given")
        return self

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of values `(..., n, K)`: `(...)`."""
        n, K, degrees = self.rows, self.columns, self.degrees
        constant = (
            degrees * K / 2 * math.log(degrees / 2)
            + log_multivariate_gamma(n / 2, K)
            - log_multivariate_gamma(degrees / 2, K)
            - n * K / 2 * math.log(math.pi)
        )
        volume = torch.linalg.slogdet(value.mT @ value).logabsdet
        length = value.square().sum((-2, -1))
        return constant + (degrees - n) / 2 * volume - degrees / 2 * length

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  (immutable)
        """Draw `(*sample_shape, n, K)`, with Bartlett's decomposition of the Wishart law."""
        shape = torch.Size(sample_shape)
        K, like = self.columns, self.like
        triangle = torch.randn((*shape, K, K), dtype=torch.float64).triu(1)
        degrees = self.degrees - torch.arange(K, dtype=torch.float64)
        lengths = torch._standard_gamma((degrees / 2).expand((*shape, K))).mul(2).sqrt()
        R = (triangle + torch.diag_embed(lengths)) / math.sqrt(self.degrees)
        return (haar(self.rows, K, tuple(shape)) @ R).to(like)

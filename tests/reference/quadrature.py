"""The posterior of one or two log eigenvalues of a linear classifier by quadrature.

The frames are held, so that what is left are `K` numbers: their density is put on a grid and summed
by the trapezoidal rule, which for smooth functions that vanish at the ends is exact to rounding.
Eigenvalues are labelled by their frame and not sorted: no factor `K!`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Quadrature:
    """The posterior given the frames.

    Attributes:
        log_evidence: `log p(y | x, frames)`.
        mean: `(K,)` posterior means of the log eigenvalues.
        sd: `(K,)` their standard deviations.
        grid: `(G,)` log eigenvalues.
        marginals: `(K, G)` posterior probabilities of the grid's points.
    """

    log_evidence: float
    mean: Tensor
    sd: Tensor
    grid: Tensor
    marginals: Tensor

    def quantile(self, q: float) -> Tensor:
        """`(K,)` quantiles of the log eigenvalues, to the nearest grid point."""
        return self.grid[(self.marginals.cumsum(1) < q).sum(1).clamp(max=len(self.grid) - 1)]


def log_eigenvalues_by_quadrature(
    log_prior: Callable[[Tensor], Tensor],
    log_likelihood: Callable[[Tensor], Tensor],
    K: int,
    *,
    low: float = -16.0,
    high: float = 14.0,
    nodes: int = 301,
) -> Quadrature:
    """Posterior and evidence of `K <= 2` log eigenvalues.

    Args:
        log_prior: From labelled eigenvalues `(P, K)` to their log density `(P,)` in `d lambda`.
        log_likelihood: From labelled eigenvalues `(P, K)` to `(P,)`.
        K: How many.
        low: Where the grid of log eigenvalues starts.
        high: Where it ends.
        nodes: Of the grid.
    """
    grid = torch.linspace(low, high, nodes, dtype=torch.float64)
    points = torch.cartesian_prod(*[grid] * K).reshape(-1, K)
    parts = points.split(20_000)
    joint = torch.cat([log_prior(u.exp()) + u.sum(1) + log_likelihood(u.exp()) for u in parts])
    log_evidence = joint.logsumexp(0) + K * (grid[1] - grid[0]).log()
    weights = joint.softmax(0).reshape([nodes] * K)
    marginals = torch.stack([weights.movedim(i, 0).reshape(nodes, -1).sum(1) for i in range(K)])
    mean = marginals @ grid
    sd = ((grid - mean[:, None]).square() * marginals).sum(1).sqrt()
    return Quadrature(float(log_evidence), mean, sd, grid, marginals)


def frames_of(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """The singular vectors `(m, K)`, `(n, K)` of a layer's weight, in float64."""
    U, _, Vh = torch.linalg.svd(layer.weight.detach().double(), full_matrices=False)
    return U, Vh.mT


def linear_likelihood(layer: nn.Linear, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """The log likelihood of a linear classifier without bias as a function of its eigenvalues."""
    U, V = frames_of(layer)
    features = x.double() @ V

    def log_likelihood(eigenvalues: Tensor) -> Tensor:
        logits = torch.einsum("nk,pk,ck->pnc", features, eigenvalues.sqrt(), U)
        picked = logits.gather(2, y.expand(len(eigenvalues), -1)[..., None]).squeeze(2)
        return (picked - logits.logsumexp(2)).sum(1)

    return log_likelihood

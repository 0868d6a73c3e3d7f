"""The volume element of `W = U diag(sqrt(lambda)) V'`, and its constant."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from bayes_htr.spectra.volume import log_frame_constant, log_jacobian

SHAPES = [(1, 1), (1, 5), (4, 1), (3, 3), (4, 2), (2, 5), (5, 3)]


def skew(x, K):
    """The antimetric matrix with `x` above the diagonal."""
    A = torch.zeros(K, K, dtype=x.dtype)
    i, j = torch.triu_indices(K, K, offset=1)
    A = A.index_put((i, j), x)
    return A - A.mT


@pytest.mark.parametrize("shape", SHAPES)
def test_jacobian_is_the_determinant_of_the_tangent_map(shape):
    """`W = exp(A) [I; 0] diag(sqrt(lambda)) exp(B)'` at `A = B = 0`, differentiated in all."""
    M, K = max(shape), min(shape)
    generator = torch.Generator().manual_seed(M * K)
    lam = 0.2 + torch.rand(K, generator=generator, dtype=torch.float64) * 3
    pairs = K * (K - 1) // 2

    def matrix(d_lam, a, outside, b):
        left = torch.eye(M, K, dtype=torch.float64)
        left = left + torch.cat([skew(a, K), outside])  # first order is all that counts
        return left @ torch.diag((lam + d_lam).sqrt()) @ (torch.eye(K).double() - skew(b, K))

    zeros = (torch.zeros(K), torch.zeros(pairs), torch.zeros(M - K, K), torch.zeros(pairs))
    parts = torch.autograd.functional.jacobian(matrix, tuple(z.double() for z in zeros))
    tangent = torch.cat([p.reshape(M * K, -1) for p in parts], dim=1)
    assert tangent.shape == (M * K, M * K)
    expected = torch.linalg.slogdet(tangent).logabsdet + K * math.log(2)
    torch.testing.assert_close(log_jacobian(lam, M), expected, rtol=1e-12, atol=1e-12)


def test_jacobian_in_any_order_and_batched():
    lam = torch.tensor([[3.0, 1.0, 0.2], [0.2, 3.0, 1.0]], dtype=torch.float64)
    values = log_jacobian(lam, 5)
    assert values.shape == (2,)
    torch.testing.assert_close(values[0], values[1])
    assert log_jacobian(torch.tensor([1.0, 1.0]).double(), 3) == -math.inf


@pytest.mark.parametrize("M", [1, 2, 5, 8])
def test_constant_for_one_eigenvalue(M):
    """`p_W = (2 pi)^(-M/2) exp(-lambda/2)` for normal entries integrates to 1."""

    def density(x):
        J = math.exp(log_jacobian(torch.tensor([x], dtype=torch.float64), M))
        return math.exp(log_frame_constant(1, M)) * J * (2 * math.pi) ** (-M / 2) * math.exp(-x / 2)

    # x = y^2 takes the singularity at 0 away
    total, _ = integrate.quad(lambda y: density(y * y) * 2 * y, 0, 12, epsabs=1e-12)
    assert total == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(("K", "M"), [(2, 3), (2, 5), (3, 4), (3, 6)])
def test_constant_against_normal_matrices(K, M):
    """Mass 1, and the mean of the largest eigenvalue that simulated matrices have.

    With the gaps as coordinates the integrand is a polynomial times an exponential where
    `(M - K - 1) / 2` is whole: Gauss-Laguerre is exact.
    """
    nodes, weights = np.polynomial.laguerre.laggauss(20)
    mass = mean = 0.0
    for index in product(range(20), repeat=K):
        # lambda_i = sum of the gaps below it; gap i counts i times in the trace
        gaps = torch.tensor([2 * nodes[j] / (i + 1) for i, j in enumerate(index)]).double()
        lam = torch.stack([gaps[i:].sum() for i in range(K)])
        log_p = log_frame_constant(K, M) + log_jacobian(lam, M) - M * K / 2 * math.log(2 * math.pi)
        volume = np.prod([2 * weights[j] / (i + 1) for i, j in enumerate(index)])
        mass += volume * log_p.exp().item()
        mean += volume * log_p.exp().item() * lam[0].item()
    assert mass == pytest.approx(1.0, rel=1e-9)
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(20_000, K, M, generator=generator, dtype=torch.float64)
    top = torch.linalg.svdvals(W)[:, 0].square()
    assert abs(top.mean().item() - mean) < 4 * stats.sem(top.numpy())

"""Frames are Haar distributed: moments of entries with their signs, and invariance."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from bayes_htr.spectra.haar import frame_of, haar, log_frame_constant, log_jacobian

N = 20_000
SHAPES = [(5, 3), (4, 4), (3, 1), (2, 2)]


def draws(n, K, seed=0):
    return haar(n, K, (N,), generator=torch.Generator().manual_seed(seed))


def is_mean(values, expected):
    assert abs(values.mean().item() - expected) < 4.5 * stats.sem(values.numpy()), expected


@pytest.mark.parametrize(("n", "K"), SHAPES)
def test_moments(n, K):
    Q = draws(n, K)
    eye = torch.eye(K, dtype=torch.float64).expand(N, K, K)
    torch.testing.assert_close(Q.mT @ Q, eye, rtol=0, atol=1e-12)
    for i in range(n):
        for j in range(K):
            is_mean(Q[:, i, j], 0.0)
            is_mean(Q[:, i, j] ** 2, 1 / n)
            is_mean(Q[:, i, j] ** 4, 3 / (n * (n + 2)))
    is_mean(Q[:, 0, 0] ** 2 * Q[:, 1, 0] ** 2, 1 / (n * (n + 2)))
    is_mean(Q[:, 0, 0] * Q[:, 1, 0], 0.0)
    if K > 1:
        is_mean(Q[:, 0, 0] ** 2 * Q[:, 0, 1] ** 2, 1 / (n * (n + 2)))
        scale = 1 / ((n - 1) * n * (n + 2))
        is_mean(Q[:, 0, 0] ** 2 * Q[:, 1, 1] ** 2, (n + 1) * scale)
        is_mean(Q[:, 0, 0] * Q[:, 0, 1] * Q[:, 1, 0] * Q[:, 1, 1], -scale)
    if n == K:
        is_mean(torch.linalg.det(Q), 0.0)  # both signs


@pytest.mark.parametrize(("n", "K"), SHAPES)
def test_invariance(n, K):
    Q = draws(n, K)
    fixed = torch.Generator().manual_seed(9)
    A, B = haar(n, n, generator=fixed), haar(K, K, generator=fixed)
    turned = A @ draws(n, K, seed=1) @ B
    # of Haar frames every projection has the same law: ((1 + q) / 2) is Beta
    law = stats.beta((n - 1) / 2, (n - 1) / 2)
    for entries in (Q[:, 0, 0], Q[:, -1, -1], turned[:, 0, 0], turned[:, -1, -1]):
        assert stats.kstest(((1 + entries) / 2).numpy(), law.cdf).pvalue > 1e-3
    sums = [(T[:, 0] * torch.arange(1.0, K + 1)).sum(-1) + T[:, -1, 0] for T in (Q, turned)]
    assert stats.ks_2samp(*(s.numpy() for s in sums)).pvalue > 1e-3


@pytest.mark.parametrize("shape", [(5, 3), (4, 4), (7, 1), (10, 6, 2)])
def test_frame_is_qr_with_positive_diagonal(shape):
    G = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    F, Q = frame_of(G), torch.linalg.qr(G)[0]
    torch.testing.assert_close(F.abs(), Q.abs())
    R = F.mT @ G
    torch.testing.assert_close(R.tril(-1), torch.zeros_like(R), atol=1e-12, rtol=0)
    assert (R.diagonal(dim1=-2, dim2=-1) > 0).all()
    torch.testing.assert_close(F @ R, G)
    torch.testing.assert_close(frame_of(3.0 * F), F)  # a frame is its own, at any length


def test_gradient():
    G = torch.randn(5, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert torch.autograd.gradcheck(frame_of, G.requires_grad_())


def test_generator_and_dtype():
    state = torch.get_rng_state()
    a, b = (haar(4, 2, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)
    assert haar(4, 2, (3,), dtype=torch.float32).dtype == torch.float32
    assert np.isfinite(haar(4, 2).numpy()).all()


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

"""Frames are Haar distributed: moments of entries with their signs, and invariance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from bayes_htr.spectra.frames import frame_of, haar

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

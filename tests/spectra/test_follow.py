"""The leading singular triplets followed through small changes of a matrix."""

from __future__ import annotations

import math

import pytest
import torch

from bayes_htr.spectra import top, top_pair
from bayes_htr.spectra.cluster import Cluster, follow

WIDTH = 5e-4


def mean(cluster, W):
    return ((cluster.left @ cluster.right) * W).sum().item()


def moved(W, size):
    return W + size * torch.randn_like(W) / math.sqrt(W.shape[0] * W.shape[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (5, 4), (60, 90), (90, 60), (80, 80)])
def test_it_stays_with_the_largest_singular_value(shape, dtype):
    W = torch.randn(shape, dtype=dtype)
    W[0] *= 3
    cluster = Cluster.of(top_pair(W))
    assert mean(cluster, W) == pytest.approx(cluster.sigma.item(), rel=1e-5)
    for _ in range(40):
        W = moved(W, 0.3)
        cluster, _ = follow(W, cluster, WIDTH)
        exact = torch.linalg.svdvals(W)[0].item()
        assert cluster.sigma.item() <= exact * (1 + 1e-5)
        assert cluster.sigma.item() >= exact * (1 - 1e-3)
        assert mean(cluster, W) >= exact * (1 - 1e-3 - WIDTH * math.log(top.BLOCK))
        assert torch.linalg.matrix_norm(cluster.left @ cluster.right, "nuc") <= 1 + 1e-4
        block = cluster.block
        torch.testing.assert_close(block.T @ block, torch.eye(block.shape[1], dtype=dtype))


@pytest.mark.parametrize("shape", [(60, 90), (90, 60)])
def test_turned_is_how_far_the_mean_before_has_fallen_behind(shape):
    W = torch.randn(shape, dtype=torch.float64)
    before = follow(W, Cluster.of(top_pair(W)), WIDTH).cluster
    W = moved(W, 3.0)
    after, turned = follow(W, before, WIDTH)
    expected = (mean(after, W) - mean(before, W)) / after.sigma.item()
    assert turned.item() == pytest.approx(expected, abs=1e-4)
    assert turned > 3e-4


@pytest.mark.parametrize("multiplicity", [2, 3, 5])
def test_a_tie_is_shared(multiplicity):
    sigma = torch.cat([torch.ones(multiplicity), torch.linspace(0.9, 0.1, 70 - multiplicity)])
    U, V = (torch.linalg.qr(torch.randn(n, 70)).Q for n in (70, 80))
    W = U * sigma @ V.T
    cluster = Cluster.of(top_pair(W))
    for _ in range(30):
        cluster, _ = follow(W, cluster, WIDTH)
    M = U.T @ (cluster.left @ cluster.right) @ V
    assert mean(cluster, W) == pytest.approx(1, abs=1e-3)
    assert M[:multiplicity, :multiplicity].trace() == pytest.approx(1, abs=2e-2)
    assert torch.linalg.svdvals(M)[multiplicity - 1] > 0.5 / multiplicity  # not one of them alone


@pytest.mark.parametrize("K", [8, 70])
def test_a_new_leading_vector_that_the_block_is_orthogonal_to(K):
    sigma = torch.linspace(1, 0.5, K)
    cluster = Cluster.of(top_pair(torch.diag(sigma)))
    sigma[-1] = 2.0
    for _ in range(30):
        cluster, _ = follow(torch.diag(sigma), cluster, WIDTH)
    assert cluster.sigma.item() == pytest.approx(2.0, rel=1e-4)
    pair = cluster.top()
    assert abs(pair.u[-1].item()) == pytest.approx(1, abs=1e-2)
    assert pair.u.norm().item() == pytest.approx(1, abs=1e-4)


def test_a_zero_matrix():
    W = torch.zeros(70, 80)
    cluster, turned = follow(W, Cluster.of(top_pair(W)), WIDTH)
    assert cluster.sigma < 1e-30
    assert all(torch.isfinite(t).all() for t in (*cluster, turned))


def test_entries_that_are_not_finite():
    W = torch.randn(70, 80)
    cluster = Cluster.of(top_pair(W))
    W[3, 4] = math.nan
    with pytest.raises(torch.linalg.LinAlgError):
        follow(W, cluster, WIDTH)


@pytest.mark.parametrize("smallest", [0.0, 1e-6, 1e-4])
@pytest.mark.parametrize("K", [3, 8, 12])
def test_what_is_zero_but_for_rounding_is_not_scaled_up(K, smallest):
    """At unit length it would outdo the largest singular value."""
    torch.manual_seed(0)
    sigma = torch.linspace(1, 0.5, K)
    sigma[-2:] = smallest
    U, V = (torch.linalg.qr(torch.randn(n, K)).Q for n in (K, K + 1))
    cluster = Cluster.of(top_pair(U * sigma @ V.T))
    for _ in range(10):
        U, V = (torch.linalg.qr(X + 0.03 * torch.randn_like(X)).Q for X in (U, V))
        cluster, _ = follow(U * sigma @ V.T, cluster, WIDTH)
        assert 0.95 < cluster.sigma.item() < 1 + 1e-4

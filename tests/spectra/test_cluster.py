"""The leading singular triplets followed through small changes of a matrix."""

from __future__ import annotations

import math

import pytest
import torch

from bayes_htr.spectra import top_pair
from bayes_htr.spectra.cluster import Cluster, follow, shares
from bayes_htr.spectra.leading import BLOCK

WIDTH = 5e-4


def shared(cluster):
    left, right = cluster.mean(WIDTH, len(cluster.values) if len(cluster.values) > 1 else None)
    return torch.outer(left, right) if left.ndim == 1 else left @ right


def mean(cluster, W):
    return (shared(cluster) * W).sum().item()


def weights(cluster):
    return shares(cluster.values.tolist(), WIDTH)


def step(W, cluster):
    return follow(W, cluster, cluster.sigma.item())


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
        cluster, *_ = step(W, cluster)
        exact = torch.linalg.svdvals(W)[0].item()
        assert cluster.sigma.item() <= exact * (1 + 1e-5)
        assert cluster.sigma.item() >= exact * (1 - 1e-3)
        assert mean(cluster, W) >= exact * (1 - 1e-3 - WIDTH * math.log(BLOCK))
        assert torch.linalg.matrix_norm(shared(cluster), "nuc") <= 1 + 1e-4
        short, long = sorted((cluster.left, cluster.right), key=lambda rows: rows.shape[1])
        used = cluster.values > cluster.sigma / 2
        identity = torch.eye(int(used.sum()), dtype=dtype)
        torch.testing.assert_close(long[used] @ long[used].T, identity, atol=2e-3, rtol=0)
        assert short[-1].norm().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("shape", [(60, 90), (90, 60)])
def test_what_was_kept_says_how_far_the_mean_before_has_fallen_behind(shape):
    W = torch.randn(shape, dtype=torch.float64)
    before = step(W, Cluster.of(top_pair(W))).cluster
    W = moved(W, 3.0)
    after, kept, _ = step(W, before)
    behind = math.fsum(w * k for w, k in zip(weights(before), kept.tolist(), strict=True))
    assert behind == pytest.approx(mean(before, W), rel=1e-6)
    ahead = math.fsum(w * v for w, v in zip(weights(after), after.values.tolist(), strict=True))
    assert ahead == pytest.approx(mean(after, W), rel=1e-4)
    assert (ahead - behind) / after.sigma.item() > 3e-4


@pytest.mark.parametrize("multiplicity", [2, 3, 5])
def test_a_tie_is_shared(multiplicity):
    sigma = torch.cat([torch.ones(multiplicity), torch.linspace(0.9, 0.1, 70 - multiplicity)])
    U, V = (torch.linalg.qr(torch.randn(n, 70)).Q for n in (70, 80))
    W = U * sigma @ V.T
    cluster = Cluster.of(top_pair(W))
    for _ in range(30):
        cluster, *_ = step(W, cluster)
    M = U.T @ shared(cluster) @ V
    assert mean(cluster, W) == pytest.approx(1, abs=1e-3)
    assert M[:multiplicity, :multiplicity].trace() == pytest.approx(1, abs=2e-2)
    assert torch.linalg.svdvals(M)[multiplicity - 1] > 0.5 / multiplicity  # not one of them alone


@pytest.mark.parametrize("K", [8, 70])
def test_a_new_leading_vector_that_the_block_is_orthogonal_to(K):
    sigma = torch.linspace(1, 0.5, K)
    cluster = Cluster.of(top_pair(torch.diag(sigma)))
    sigma[-1] = 2.0
    for _ in range(30):
        cluster, *_ = step(torch.diag(sigma), cluster)
    assert cluster.sigma.item() == pytest.approx(2.0, rel=1e-4)
    u = cluster.left[cluster.values.argmax()]
    assert abs(u[-1].item()) == pytest.approx(1, abs=1e-2)
    assert u.norm().item() == pytest.approx(1, abs=1e-4)


def test_a_zero_matrix():
    W = torch.zeros(70, 80)
    cluster, kept, _ = step(W, Cluster.of(top_pair(W)))
    assert cluster.sigma == 0
    assert weights(cluster) == pytest.approx([1 / len(kept)] * len(kept))
    assert all(torch.isfinite(t).all() for t in (*cluster, kept))


def test_entries_that_are_not_finite():
    W = torch.randn(70, 80)
    cluster = Cluster.of(top_pair(W))
    W[3, 4] = math.nan
    cluster, kept, _ = step(W, cluster)
    assert not any(torch.isfinite(t).any() for t in (*cluster, kept))


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
        cluster, *_ = step(U * sigma @ V.T, cluster)
        assert 0.95 < cluster.sigma.item() < 1 + 1e-4


@pytest.mark.parametrize("scale", [1e-2, 1e-3, 1e-6, 0.0])
@pytest.mark.parametrize("shape", [(60, 90), (90, 60)])
def test_values_of_a_matrix_that_has_shrunk_are_lower_bounds(shape, scale):
    W = torch.randn(shape)
    cluster, *_ = step(scale * W, Cluster.of(top_pair(W)))
    exact = scale * torch.linalg.svdvals(W)[:BLOCK].flip(0)
    assert (cluster.values <= exact * (1 + 1e-5)).all()

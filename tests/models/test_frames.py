"""The sites of singular vectors: their law by goodness of fit, and their density."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bayes_htr.models.frames import FrameSite
from bayes_htr.spectra import frame_of

LIKE = torch.zeros((), dtype=torch.float64)


@pytest.fixture(autouse=True)
def _random_state():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize(("n", "K"), [(1, 1), (2, 2), (3, 3), (5, 2)])
def test_draws(n, K):
    """Entries of a uniform unit vector, squared, are Beta; traces of Wishart matrices, Gamma."""
    X = FrameSite(n, K, LIKE).sample((1500,))
    assert X.shape == (1500, n, K) and X.dtype == torch.float64
    Q = frame_of(X)
    torch.testing.assert_close(Q.mT @ Q, torch.eye(K).double().expand(1500, K, K))
    if n > 1:
        squares = Q[:, 0, -1].square().numpy()
        assert stats.kstest(squares, stats.beta(0.5, (n - 1) / 2).cdf).pvalue > 1e-3
    assert stats.binomtest(int((Q[:, -1, -1] > 0).sum()), 1500).pvalue > 1e-3
    degrees = n + 8
    traces = X.square().sum((1, 2)).numpy() * degrees
    assert stats.kstest(traces, stats.chi2(degrees * K).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("n", "K"), [(1, 1), (2, 2), (3, 1)])
def test_the_density_has_integral_one(n, K):
    normal = torch.distributions.Normal(LIKE, 0.9)
    X = normal.sample((400_000, n, K))
    ratio = (FrameSite(n, K, LIKE).log_prob(X) - normal.log_prob(X).sum((1, 2))).exp()
    error = float(ratio.std()) / math.sqrt(len(ratio))
    assert error < 0.01 and abs(float(ratio.mean()) - 1) < 4 * error


def test_the_density_has_no_preferred_direction_and_vanishes_at_singular_matrices():
    site = FrameSite(3, 3, LIKE)
    X = site.sample((4,))
    torch.testing.assert_close(
        site.log_prob(frame_of(torch.randn(3, 3).double()) @ X), site.log_prob(X)
    )
    singular = X[0].clone()
    singular[:, 2] = singular[:, 1] + 1e-9 * singular[:, 2]
    assert float(site.log_prob(singular)) < -100
    assert torch.autograd.gradcheck(site.log_prob, X.requires_grad_())
    assert np.isfinite(site.log_prob(X).detach().numpy()).all()


def test_no_batches():
    site = FrameSite(3, 2, LIKE)
    assert site.expand(()) is site
    with pytest.raises(ValueError, match=r"no batch shape, and \(5,\)"):
        site.expand((5,))

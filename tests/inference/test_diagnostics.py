"""R-hat and effective sample size: against arviz, and where the answer is known."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from bayes_htr.inference.chains import bulk_ess, split_rhat


def autoregressive(chains: int, draws: int, rho: float, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(chains, draws, generator=generator, dtype=torch.float64)
    x = noise.clone()
    for t in range(1, draws):
        x[:, t] = rho * x[:, t - 1] + math.sqrt(1 - rho * rho) * noise[:, t]
    return x


def ties(x: torch.Tensor) -> torch.Tensor:
    return (3 * x).round()


CASES = {
    "independent": autoregressive(4, 300, 0.0),
    "slow": autoregressive(2, 401, 0.9),
    "negative": autoregressive(3, 200, -0.6),
    "one chain": autoregressive(1, 250, 0.5),
    "few": autoregressive(2, 5, 0.0),
    "fewest": autoregressive(2, 4, 0.0),
    "heavy tail": autoregressive(2, 300, 0.5).mul(4).exp(),
    "ties": ties(autoregressive(2, 300, 0.3)),
    "apart": autoregressive(3, 300, 0.2) + torch.arange(3.0)[:, None],
    "wider": autoregressive(2, 300, 0.2) * torch.tensor([[1.0], [3.0]]),
    "trend": autoregressive(2, 300, 0.0) + torch.linspace(0, 3, 300),
    "float32": autoregressive(2, 300, 0.5).float(),
}


@pytest.mark.parametrize("draws", CASES.values(), ids=CASES.keys())
def test_against_arviz(draws):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arviz = pytest.importorskip("arviz")
    if len(draws) > 1:  # else arviz gives no R-hat, though the halves of one chain have one
        assert split_rhat(draws) == pytest.approx(float(arviz.rhat(draws.numpy())), rel=1e-9)
    assert bulk_ess(draws) == pytest.approx(float(arviz.ess(draws.numpy())), rel=1e-9)


def test_ess_of_an_autoregressive_process():
    # n (1 - rho) / (1 + rho)
    assert bulk_ess(autoregressive(4, 20_000, 0.7)) == pytest.approx(80_000 * 0.3 / 1.7, rel=0.05)


def test_chains_that_differ_are_seen():
    assert split_rhat(CASES["independent"]) < 1.01
    for name in ("apart", "wider", "trend"):
        assert split_rhat(CASES[name]) > 1.1, name


def test_chains_that_are_stuck():
    stuck = torch.tensor([[0.0], [1.0]]).expand(2, 10)
    assert split_rhat(stuck) == math.inf
    assert math.isnan(split_rhat(torch.ones(2, 10)))
    assert bulk_ess(torch.ones(2, 10)) == 20


@pytest.mark.parametrize("shape", [(2, 3), (10,), (2, 10, 1)])
def test_too_few_draws(shape):
    with pytest.raises(ValueError, match="at least 4"):
        split_rhat(torch.zeros(shape))

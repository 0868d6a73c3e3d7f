"""Simulation-based calibration of NUTS in spectral coordinates, with singular vectors sampled.

Weights are drawn from the prior, labels from the likelihood at these weights, and draws from the
posterior given these labels. If the sampler is right, the rank of the true value among the draws
is uniform for every scalar. The prior is simulated by `htr.sample_prior`, which shares neither
sites nor densities with the program that NUTS samples.
Source: Talts, Betancourt, Simpson, Vehtari & Gelman (2018), arXiv:1804.06788.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from scipy import stats
from torch import nn

import bayes_htr as htr
from tests.inference.test_nuts_frames import CASES

torch.set_num_threads(1)

REPLICATES, EXAMPLES = 200, 25
WARMUP, KEPT, THIN = 19, 7, 3
LEVEL = 1e-3
"""How often a right sampler fails, over seeds of the test."""


def scalars(values):
    """What is ranked, by name, `(draws,)` each: log eigenvalues, two weights, hyperparameters."""
    W = values["weight"]
    lam = torch.linalg.svdvals(W).square().log()
    found = {f"log eigenvalue {i}": lam[:, i] for i in range(lam.shape[1])}
    found |= {"weight (0, 0)": W[:, 0, 0], "weight (1, 1)": W[:, 1, 1]}
    return found | {name: value for name, value in values.items() if name != "weight"}


def ranks(case, shape, replicate):
    """The ranks from 0 to `KEPT` of the true values among thinned draws of their posterior.

    The chain starts away from the truth, by a standard normal step in each coordinate: a chain
    that never comes to a part of the space fails, even if it is right elsewhere.
    """
    rows, columns = shape
    net = nn.Linear(columns, rows, bias=False).double()
    model = htr.BayesianClassifier(net, htr.Priors(CASES[case]))
    seed, of_data, of_chain = range(3 * replicate, 3 * replicate + 3)
    truth = htr.sample_prior(model, 1, seed=seed)
    with torch.no_grad():
        net.weight.copy_(truth["weight"][0])
    generator = torch.Generator().manual_seed(of_data)
    x = torch.randn(EXAMPLES, columns, generator=generator, dtype=torch.float64)
    y = torch.multinomial(net(x).softmax(1).detach(), 1, generator=generator).flatten()
    method = htr.NUTS(
        warmup=WARMUP,
        samples=KEPT * THIN,
        chains=1,
        target_accept=0.65,
        max_tree_depth=4,  # the warm-up is short, and ends at small steps
        jitter=1.0,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the chains do not agree|.*trajectories")
        posterior = htr.fit(model, (x, y), method=method, epochs=0, seed=of_chain, progress=False)
    draws = list(posterior.guide.draws(len(posterior.guide), 0))[THIN - 1 :: THIN]
    values = {name: torch.stack([draw[name] for draw in draws]) for name in truth}
    true = scalars(truth)
    return {name: int((value < true[name]).sum()) for name, value in scalars(values).items()}


def uniformity(found):
    """P-values of the chi-squared test of uniform ranks, by scalar."""
    p_values = {}
    for name in found[0]:
        counts = torch.bincount(torch.tensor([r[name] for r in found]), minlength=KEPT + 1)
        p_values[name] = float(stats.chisquare(counts.numpy()).pvalue)
    return p_values


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "shape"), [("Lomax", (2, 3)), ("Frechet", (2, 2)), ("tail index", (2, 3))]
)
def test_ranks_are_uniform(case, shape):
    """This takes some five minutes for each prior on one core."""
    p_values = uniformity([ranks(case, shape, r) for r in range(REPLICATES)])
    print(case, {name: round(p, 3) for name, p in p_values.items()})
    assert min(p_values.values()) > LEVEL / len(p_values), p_values

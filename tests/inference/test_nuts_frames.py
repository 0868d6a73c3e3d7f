"""NUTS with sampled singular vectors against importance sampling from the prior."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bayes_htr as htr
from bayes_htr.inference.chains import bulk_ess
from benchmarks.frames_reference import small_classifier

torch.set_num_threads(1)


def problem(rows, columns):
    """A linear classifier of 25 examples with noisy labels."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(25, columns)
    y = (x @ normal(columns, rows) + 0.7 * normal(25, rows)).argmax(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Linear(columns, rows, bias=False).double(), x, y


def moments(W):
    """What is compared, `(draws, features)`: logits' differences, and sorted log eigenvalues.

    Differences are compared on the scale of `asinh`: where a line separates the classes, their tail
    is that of the prior, whose moments need not exist.
    """
    differences = (W - W.mean(1, keepdim=True)).flatten(1).asinh()
    lam = torch.linalg.svdvals(W).square().log()
    return torch.cat([differences, differences.square(), lam, lam.square()], 1)


def by_importance(model, x, y, worth=1000):
    """Means of `moments` under the posterior, with their standard errors.

    Draws of the prior are added until their weights are worth this many independent draws: with
    fewer, a few of them decide, and the standard errors are far too small.
    """
    W, weights = [], []
    for seed in itertools.count():
        drawn = htr.sample_prior(model, 50_000, seed=seed)["weight"]
        logits = (x @ drawn.mT).flatten(0, 1)
        losses = F.cross_entropy(logits, y.repeat(len(drawn)), reduction="none")
        likelihood = losses.reshape(len(drawn), -1).sum(1).neg().exp()
        counts = likelihood > 1e-9 * likelihood.max()
        W.append(drawn[counts])
        weights.append(likelihood[counts])
        weight = torch.cat(weights)
        if weight.sum() ** 2 >= worth * weight.square().sum():
            break
    weight = weight / weight.sum()
    features = moments(torch.cat(W))
    mean = weight @ features
    return mean, (weight.square() @ (features - mean).square()).sqrt()


CASES = {
    "Lomax": htr.ESD(htr.Lomax(3.0, 1.0)),
    "Frechet": htr.MaxEigenvalue(htr.Frechet(3.0, 1.0)),
    "exponential": htr.ESD(htr.Exponential(1.0)),
    "tail index": htr.ESD(htr.Lomax(tail_index=htr.Gamma(8.0, 4.0), scale=1.0)),
}


@pytest.mark.long
@pytest.mark.parametrize(
    ("case", "shape", "draws"),
    [
        ("Lomax", (2, 2), 120),
        *(pytest.param(case, (2, 3), 700, marks=pytest.mark.slow) for case in CASES),
        pytest.param("Lomax", (3, 3), 700, marks=pytest.mark.slow),
        pytest.param("Frechet", (3, 2), 700, marks=pytest.mark.slow),
    ],
)
def test_against_importance_sampling(case, shape, draws):
    net, x, y = problem(*shape)
    model = htr.BayesianClassifier(net, htr.Priors(CASES[case]))
    method = htr.NUTS(warmup=draws // 2, samples=draws, chains=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the chains do not agree")
        posterior = htr.fit(model, (x, y), method=method, epochs=0)
    summary = posterior.history[-1]
    assert summary["saturated"] == 0
    assert summary["divergences"] <= 0.01 * len(posterior.guide)  # of all trajectories
    assert summary["rhat"] < 1.05
    W = torch.stack([d["weight"] for d in posterior.guide.draws(len(posterior.guide), 0)])
    features = moments(W)
    mean, error = by_importance(model, x, y)
    for i, (expected, uncertain) in enumerate(zip(mean, error, strict=True)):
        values = features[:, i]
        size = bulk_ess(values.reshape(2, -1))
        own = float(values.std()) / math.sqrt(size)
        off = float(values.mean() - expected) / math.hypot(own, float(uncertain))
        assert abs(off) < 4, (i, off, size)


@pytest.mark.slow
def test_two_chains_agree_on_72_weights():
    """This takes some ten minutes on two cores."""
    net, data = small_classifier()
    model = htr.BayesianClassifier(net, htr.Priors(htr.ESD(htr.Lomax(3.0))))
    start = htr.fit(model, data, method=htr.MAP(), epochs=100, batch_size=400)
    method = htr.NUTS(warmup=300, samples=1000, target_accept=0.65, processes=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*trajectories diverged")
        summary = htr.fit(model, data, method=method, epochs=0, init=start).history[-1]
    assert summary["rhat"] < 1.01
    assert summary["ess"] > 400
    assert summary["saturated"] == 0 and summary["divergences"] <= 10

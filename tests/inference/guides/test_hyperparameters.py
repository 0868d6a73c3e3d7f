"""Laws of hyperparameters, against exact conditionals and quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import bayes_htr as htr
from bayes_htr.inference.guides.gaussian import MeanField
from bayes_htr.inference.guides.hyperparameters import HyperparameterPosterior
from bayes_htr.priors import Hyperparameter

LIKE = torch.zeros((), dtype=torch.float64)


def test_gamma_law_of_the_tail_index_matches_the_exact_posterior():
    """With the spectrum known it is `Gamma(a + K, b + S)`."""
    a, b, xmin = 9.0, 3.0, 1e-3
    torch.manual_seed(0)
    net = torch.nn.Linear(20, 12, bias=False).double()
    prior = htr.ESD(htr.Powerlaw(tail_index=htr.Gamma(a, b), xmin=xmin))
    guide = MeanField(htr.BayesianClassifier(net, htr.Priors(prior)).densities(), init_scale=1e-3)
    lam = torch.linalg.svdvals(net.weight.detach()) ** 2
    assert lam.min() > xmin
    exact = stats.gamma(a + 12, scale=1 / (b + torch.log(lam / xmin).sum().item()))
    optimizer = torch.optim.Adam(guide.hyper.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2000)
    for _ in range(2000):
        optimizer.zero_grad()
        known = guide.rsample() | {"weight": net.weight.detach()}
        guide.kl(known).backward()
        optimizer.step()
        schedule.step()
    ((name, law),) = guide.hyper.by_name().items()
    concentration, rate = law.concentration.item(), law.rate.item()
    found = stats.gamma(concentration, scale=1 / rate)
    assert name == "weight:ESD.tail_index"
    assert found.mean() == pytest.approx(exact.mean(), rel=0.02)
    assert found.interval(0.95) == pytest.approx(exact.interval(0.95), rel=0.05)


@pytest.mark.parametrize(
    "law",
    [htr.Gamma(9.0, 3.0), htr.LogNormal(0.3, 0.7), htr.Normal(1.0, 2.0), htr.HalfCauchy(1.0)],
    ids=lambda law: type(law).__name__,
)
def test_divergence_against_quadrature(law):
    laws = HyperparameterPosterior({"h": Hyperparameter("h", law)}, {}, LIKE)
    with torch.no_grad():
        laws.laws[0] += torch.tensor([0.2, 0.4])
    (q,) = laws.by_name().values()
    prior = law.distribution()
    positive = not isinstance(law, htr.Normal)
    if isinstance(law, htr.Gamma):
        guide = stats.gamma(q.concentration.item(), scale=1 / q.rate.item())
    elif positive:
        guide = stats.lognorm(q.scale.item(), scale=math.exp(q.loc.item()))
    else:
        guide = stats.norm(q.loc.item(), q.scale.item())

    def integrand(x):
        return guide.pdf(x) * (guide.logpdf(x) - prior.log_prob(torch.tensor(x)).item())

    low, high = guide.ppf([1e-9, 1 - 1e-9])
    expected = integrate.quad(integrand, low, high, limit=200, epsabs=1e-7)[0]
    assert laws.kl().item() == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("law", [htr.Gamma(9.0, 3.0), htr.LogNormal(0.3, 0.7)], ids=str)
def test_draws_have_the_law(law):
    laws = HyperparameterPosterior({"h": Hyperparameter("h", law)}, {}, LIKE)
    (q,) = laws.by_name().values()
    reference = (
        stats.gamma(q.concentration.item(), scale=1 / q.rate.item())
        if isinstance(law, htr.Gamma)
        else stats.lognorm(q.scale.item(), scale=math.exp(q.loc.item()))
    )
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    drawn = np.array([laws.draw(generator)["h"].item() for _ in range(1000)])
    rdrawn = np.array([laws.rsample()["h"].item() for _ in range(1000)])
    for values in (drawn, rdrawn):
        assert stats.kstest(values, reference.cdf).pvalue > 1e-3
    middle = reference.mean() if isinstance(law, htr.Gamma) else reference.median()
    assert laws.centre()["h"].item() == pytest.approx(middle)


@pytest.mark.parametrize("law", [htr.Gamma(9.0, 3.0), htr.LogNormal(0.3, 0.7)], ids=str)
def test_it_starts_where_it_is_told(law):
    laws = HyperparameterPosterior({"h": Hyperparameter("h", law)}, {"h": torch.tensor(0.7)}, LIKE)
    assert laws.centre()["h"].item() == pytest.approx(math.exp(0.7))


@pytest.mark.parametrize("count", [0.0, 1.0, 400.0, 1e6])
def test_it_starts_as_wide_as_the_values_leave_it(count):
    """A Gamma law as its exact conditional, whose concentration is the prior's plus the count."""
    latents = {
        "a": Hyperparameter("a", htr.Gamma(9.0, 3.0)),
        "b": Hyperparameter("b", htr.LogNormal(0.3, 0.7)),
    }
    laws = HyperparameterPosterior(latents, {}, LIKE, {"a": count, "b": count}).by_name()
    assert laws["a"].concentration.item() == pytest.approx(9.0 + count)
    assert laws["b"].scale.item() == pytest.approx(min(0.1, max(count, 1.0) ** -0.5))


@pytest.mark.parametrize("guide", ["spectral", "meanfield"])
def test_the_spread_of_a_scale_of_many_entries(guide):
    """Its exact conditional has a standard deviation of `1 / sqrt(2 N)` in the logarithm."""
    torch.manual_seed(0)
    net = torch.nn.Linear(60, 50)
    priors = htr.Priors({"weight": htr.Entries(htr.Normal(0.0, htr.LogNormal(0.0, 1.0)))})
    data = torch.randn(64, 60), torch.arange(64) % 50
    method = htr.SVI(guide=guide, lr=1e-4, scheduler=None, init_scale=None)
    posterior = htr.fit(htr.BayesianClassifier(net, priors), data, method=method, epochs=100)
    (drawn,) = posterior.hyperparameter_draws(400).values()
    exact = (2 * 3000) ** -0.5
    assert exact / 3 < drawn.log().std().item() < 3 * exact

"""The law of one spectrum given its frames, against Monte Carlo and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Gamma, Normal

import bayes_htr as htr
from bayes_htr.errors import PriorError
from bayes_htr.inference.guides.eigenvalues import (
    RATIO,
    EigenvaluePosterior,
    SupportTransform,
)
from bayes_htr.inference.guides.hyperparameters import HyperparameterMoments
from bayes_htr.priors import MatrixPrior

EIGENVALUES = torch.tensor([6.0, 2.5, 0.8, 0.3], dtype=torch.float64)
SPREAD = torch.tensor([0.2, 0.1, 0.4, 0.6], dtype=torch.float64)
PRIORS = {
    "Lomax": htr.ESD(htr.Lomax(2.0, 0.7)),
    "Lomax, strength": htr.ESD(htr.Lomax(2.0, 0.7)).scaled(3.0),
    "lower end": htr.ESD(htr.Powerlaw(2.5, 0.01)),
    "both ends": htr.ESD(htr.TruncatedPowerlaw(1.5, 0.01, 50.0)),
    "singular values": htr.SingularValues(htr.Exponential(1.5)),
    "two laws": htr.ESD(htr.Lomax(2.0)) & htr.SingularValues(htr.Exponential(1.5)),
    "largest": htr.MaxEigenvalue(htr.Frechet(2.0, 1.0)),
    "largest, lower end": htr.MaxEigenvalue(htr.Powerlaw(2.5, 0.5)).scaled(2.0),
    "largest, twice": htr.MaxEigenvalue(htr.Frechet(2.0)) & htr.MaxEigenvalue(htr.Lomax(3.0)),
    "largest and all": htr.MaxEigenvalue(htr.Frechet(2.0)) & htr.ESD(htr.Lomax(2.0)),
}


def law_of(prior, free=4, shape=(4, 7)):
    return EigenvaluePosterior(MatrixPrior.of(prior, "w", shape), free)


def coordinates(law, lam):
    """Unconstrained coordinates `(N, K)` of labelled eigenvalues, and `log |dz/dlambda|`."""

    def one(x, lower, upper):
        if math.isinf(upper):
            return (x - lower).log(), -(x - lower).log()
        z = ((x - lower) / (upper - x)).log()
        return z, (1 / (x - lower) + 1 / (upper - x)).log()

    lower, upper = law.interval.lower, law.interval.upper
    if not law.has_ratios:
        z, slopes = one(lam, lower, upper)
        return z, slopes.sum(1)
    top, slope = one(lam[:, :1], lower, upper)
    ratios, slopes = one(lam[:, 1:] / lam[:, :1], 0.0, 1.0)
    # d ratio / d lambda_i = 1 / lambda_1, triangular.
    log_det = slope.sum(1) + slopes.sum(1) - (lam.shape[1] - 1) * lam[:, 0].log()
    return torch.cat([top, ratios], 1), log_det


@pytest.mark.parametrize("name", PRIORS)
def test_divergence_is_the_mean_over_draws(name):
    """`log q - log p` of labelled eigenvalues, of which `K!` orders are one spectrum.

    Or `(K-1)!`, where the law is that of the largest, which has a label of its own.
    """
    law = law_of(PRIORS[name])
    n = 100_000
    noise = torch.randn(n, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lam = EIGENVALUES * law.factors(EIGENVALUES, SPREAD, noise).square()
    z, log_slope = coordinates(law, lam)
    start, _ = coordinates(law, EIGENVALUES[None])
    log_q = Normal(start, 2 * SPREAD).log_prob(z).sum(1) + log_slope
    of_largest = isinstance(law.prior.spectral[0].statistic, htr.MaxEigenvalue)
    orders = math.lgamma(4) if of_largest else math.lgamma(5)
    log_p = law.prior.log_spectral_density(lam, {}) - orders
    each = log_q - log_p
    found = law.kl(EIGENVALUES, SPREAD, HyperparameterMoments())
    error = float(each.std()) / math.sqrt(n)
    assert found.item() == pytest.approx(each.mean().item(), abs=4 * error)
    assert error < 0.02
    if law.has_ratios:
        assert (lam[:, 1:] < lam[:, :1]).all()
        lam = lam[:, :1]
    assert (lam > law.interval.lower).all()


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("free", [1, 3, 4])
def test_gradients(name, free):
    law = law_of(PRIORS[name], free)
    eigenvalues = EIGENVALUES.clone().requires_grad_()
    spread = SPREAD[:free].clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: law.kl(a, b, HyperparameterMoments()),
        (eigenvalues, spread),
        eps=1e-6,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", ["Lomax", "singular values"])
def test_points_have_the_energy_of_map(name):
    """Those without a spread in the coordinate of the statistic; the others are as alone."""
    prior = PRIORS[name]
    found = law_of(prior, 2).kl(EIGENVALUES, SPREAD[:2], HyperparameterMoments())
    alone = law_of(prior, 2, (2, 7)).kl(EIGENVALUES[:2], SPREAD[:2], HyperparameterMoments())
    distribution = prior.terms[0].statistic.law.distribution()
    points = EIGENVALUES[2:] if name == "Lomax" else EIGENVALUES[2:].sqrt()
    expected = alone - distribution.log_prob(points).sum()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_points_beside_a_law_of_the_largest():
    """With a small spread: the energy of MAP, and the entropy of the one that is free."""
    prior = htr.SingularValues(htr.Exponential(1.5)) & htr.MaxEigenvalue(htr.Frechet(2.0))
    found = law_of(prior, 1).kl(EIGENVALUES, SPREAD[:1] * 1e-6, HyperparameterMoments())
    energy = -htr.Exponential(1.5).distribution().log_prob(EIGENVALUES.sqrt()).sum()
    energy = energy - htr.Frechet(2.0).distribution().log_prob(EIGENVALUES[0])
    log_slope = math.log(2 * math.sqrt(6.0))  # of lambda to sigma, for the free one
    entropy = math.log(2e-6 * SPREAD[0]) + 0.5 * math.log(2 * math.pi * math.e) + math.log(6.0)
    assert found.item() == pytest.approx(energy.item() + log_slope - entropy, abs=1e-6)


def test_points_follow_the_largest():
    law = law_of(PRIORS["largest"], 1)
    factors = law.factors(EIGENVALUES[:1], SPREAD[:1], torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(factors, SPREAD[:1].exp())
    energy = -htr.Frechet(2.0).distribution().log_prob(EIGENVALUES[0])
    tiny = law.kl(EIGENVALUES, SPREAD[:1] * 1e-6, HyperparameterMoments())
    entropy = math.log(2e-6 * SPREAD[0]) + 0.5 * math.log(2 * math.pi * math.e) + math.log(6.0)
    assert tiny.item() == pytest.approx(energy.item() - entropy, abs=1e-6)


@pytest.mark.parametrize(
    ("prior", "short"), [(htr.ESD(htr.Lomax(2.0)), 0.0104), (htr.ESD(htr.Frechet(2.0)), 0.0811)]
)
def test_the_best_log_normal_law_falls_short_of_a_power_law(prior, short):
    """Where only the prior acts, the bound is as far from the evidence as the families differ."""
    law = law_of(prior, 1, (1, 7))
    u = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([u], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = law.kl(u[0].exp(), u[1].exp(), HyperparameterMoments())
        value.backward()
        return value

    optimizer.step(closure)
    assert closure().item() == pytest.approx(short, abs=1e-3)


@pytest.mark.parametrize("strength", [1.0, 3.0])
@pytest.mark.parametrize("name", ["ESD", "SingularValues"])
def test_a_tail_index_with_a_gamma_law_is_averaged_over(name, strength):
    """Against quadrature over the tail index, one value at a time."""
    prior = getattr(htr, name)(htr.Lomax(tail_index=htr.Gamma(9.0, 3.0))).scaled(strength)
    (term,) = MatrixPrior.of(prior, "w", (4, 7)).spectral
    (latent,) = term.hyperparameters.values()
    law = Gamma(torch.tensor(5.0).double(), 2.0)
    moments = law.mean, torch.digamma(law.concentration) - law.rate.log()
    found = HyperparameterMoments({}, {latent.name: moments}).log_prob(term, EIGENVALUES)
    t = torch.linspace(1e-4, 20.0, 40_000, dtype=torch.float64)[:, None]
    log_p = htr.distributions.Lomax(1.0 + t, 1.0).log_prob(EIGENVALUES)
    expected = strength * torch.trapezoid(law.log_prob(t).exp() * log_p, t, dim=0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("free", [1, 2, 4])
def test_points_follow_the_largest_at_a_large_spread(free):
    """The mean over draws of the largest, which the points are multiplied with."""
    law = law_of(PRIORS["largest and all"], free)
    spread = torch.tensor([0.7, 1e-7, 1e-7, 1e-7], dtype=torch.float64)[:free]
    noise = torch.linspace(-8.0, 8.0, 4001, dtype=torch.float64)
    weights = Normal(0.0, 1.0).log_prob(noise).exp()
    noisy = torch.cat([noise[:, None], torch.zeros(4001, free - 1).double()], dim=1)
    factors = law.factors(EIGENVALUES[:free], spread, noisy).square()
    lam = EIGENVALUES * torch.cat([factors, factors[:, :1].expand(-1, 4 - free)], dim=1)
    torch.testing.assert_close(lam / lam[:, :1], (EIGENVALUES / 6.0).expand(4001, 4))
    log_p = htr.Frechet(2.0).distribution().log_prob(lam[:, 0])
    log_p = log_p + htr.Lomax(2.0).distribution().log_prob(lam).sum(1)
    log_p = log_p + (free - 1) * lam[:, 0].log()  # ratios of the free ones are coordinates
    expected = torch.trapezoid(weights * log_p, noise).item()
    entropy = (2 * spread).log().sum() + free * 0.5 * math.log(2 * math.pi * math.e)
    ratios = EIGENVALUES[1:free] / 6.0
    entropy = entropy + math.log(6.0) + (ratios * (1 - ratios)).log().sum()
    found = law.kl(EIGENVALUES, spread, HyperparameterMoments()).item()
    assert found == pytest.approx(-entropy.item() - expected, abs=1e-4)


@pytest.mark.parametrize(
    "interval", [RATIO, SupportTransform(0.01, 50.0), SupportTransform(0.0, 2.0)], ids=str
)
def test_draws_far_out_stay_inside(interval):
    """In float64 the logistic function is 1 from 37 on."""
    z = torch.tensor([-1e4, -100.0, -40.0, 40.0, 100.0, 1e4], dtype=torch.float64)
    x = interval.value(z)
    assert (x > interval.lower).all()
    assert (x < interval.upper).all()
    assert torch.isfinite(interval.coordinate(x)).all()
    near = torch.tensor([-29.0, 29.0], dtype=torch.float64)
    ends = torch.tensor([interval.lower, interval.upper], dtype=torch.float64)
    gap = (interval.value(near) - ends).abs()
    width = interval.upper - interval.lower
    torch.testing.assert_close(gap / width, (-near.abs()).exp(), rtol=0.01, atol=0)


def test_medians_are_moved_inside():
    lam = torch.tensor([6.0, 6.0, 0.5, 1e-9], dtype=torch.float64)
    assert torch.equal(law_of(PRIORS["Lomax"]).medians(lam), lam)
    assert law_of(PRIORS["lower end"]).medians(lam)[3].item() == pytest.approx(0.0101)
    inside = law_of(PRIORS["largest"]).medians(lam)
    assert inside[1] < inside[0] == 6.0
    assert inside[2] == 0.5


def test_supports_that_have_nothing_in_common():
    prior = htr.ESD(htr.TruncatedPowerlaw(1.5, 0.01, 1.0)) & htr.ESD(htr.Powerlaw(2.5, 2.0))
    with pytest.raises(PriorError, match="nothing in common"):
        law_of(prior)
    prior = htr.MaxEigenvalue(htr.Frechet(2.0)) & htr.ESD(htr.Powerlaw(2.5, 0.1))
    with pytest.raises(PriorError, match=r"on \(0, inf\) only"):
        law_of(prior)


def test_ends_of_singular_values_are_squared():
    law = law_of(htr.SingularValues(htr.TruncatedPowerlaw(1.5, 0.1, 7.0)))
    assert law.interval.lower == pytest.approx(0.01)
    assert law.interval.upper == pytest.approx(49.0)


def test_the_gradient_outside_of_the_support_leads_inside():
    law = law_of(PRIORS["lower end"])
    eigenvalues = torch.tensor([6.0, 2.5, 0.8, 1e-4], dtype=torch.float64, requires_grad=True)
    law.kl(eigenvalues, SPREAD, HyperparameterMoments()).backward()
    assert eigenvalues.grad[3] < -1.0


def test_several_values_of_a_hyperparameter_are_averaged_over():
    law = law_of(htr.ESD(htr.Lomax(2.0, scale=htr.LogNormal(0.0, 1.0))))
    scales = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)

    def at(scale):
        return law.kl(EIGENVALUES, SPREAD, HyperparameterMoments({"w:ESD.scale": scale}))

    torch.testing.assert_close(at(scales[:, None, None]), torch.stack([*map(at, scales)]).mean())

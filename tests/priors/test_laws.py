"""The energy of a law against the density, and when a power of it can be integrated."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

import bayes_htr as htr

LAWS = [
    (htr.Powerlaw(2.5, 0.3), scipy.stats.pareto(1.5, scale=0.3)),
    (htr.Powerlaw(tail_index=1.5, xmin=0.3), scipy.stats.pareto(1.5, scale=0.3)),
    (htr.Lomax(2.5, 0.7), scipy.stats.lomax(1.5, scale=0.7)),
    (htr.TruncatedPowerlaw(2.5, 0.3, 4.0), scipy.stats.truncpareto(1.5, 4 / 0.3, scale=0.3)),
    (htr.TruncatedPowerlaw(1.0, 0.3, 4.0), scipy.stats.loguniform(0.3, 4.0)),
    (htr.Frechet(2.5, 0.7, -0.4), scipy.stats.invweibull(2.5, -0.4, 0.7)),
    (htr.Normal(0.4, 0.7), scipy.stats.norm(0.4, 0.7)),
    (htr.Exponential(0.7), scipy.stats.expon(scale=1 / 0.7)),
    (htr.Gamma(2.5, 0.7), scipy.stats.gamma(2.5, scale=1 / 0.7)),
    (htr.Gamma(1.0, 0.7), scipy.stats.gamma(1.0, scale=1 / 0.7)),
    (htr.LogNormal(0.4, 0.7), scipy.stats.lognorm(0.7, scale=math.exp(0.4))),
    (htr.HalfCauchy(0.7), scipy.stats.halfcauchy(scale=0.7)),
]


@pytest.mark.parametrize(("law", "reference"), LAWS, ids=lambda x: str(x)[:30])
def test_energy_and_distribution(law, reference):
    x = torch.linspace(0.5, 3.5, 7, dtype=torch.float64)
    energy = law.energy(x, law.arguments)
    expected = -reference.logpdf(x.numpy())
    np.testing.assert_allclose(energy - energy[0], expected - expected[0], rtol=1e-12, atol=1e-12)
    log_prob = law.distribution().log_prob(x.float())
    np.testing.assert_allclose(log_prob, -expected, rtol=1e-4, atol=1e-5)


def test_energies_of_laws_without_a_reference():
    x = torch.linspace(0.5, 3.5, 7, dtype=torch.float64)
    law = htr.ImproperPowerlaw(2.5)
    torch.testing.assert_close(law.energy(x, law.arguments), 2.5 * x.log())
    law = htr.MarchenkoPastur(0.5, 0.02, 100.0)  # support 2 (1 -+ sqrt(1/2))^2
    density = ((x - 2 * (1 - 0.5**0.5) ** 2) * (2 * (1 + 0.5**0.5) ** 2 - x)).sqrt() / x
    torch.testing.assert_close(law.energy(x, law.arguments), -density.log())


@pytest.mark.parametrize(
    "law",
    [
        htr.Lomax(htr.Hill()),
        htr.Lomax(tail_index=htr.Gamma(2.0, 1.0)),
        htr.Powerlaw(2.0),
        htr.Frechet(htr.Shared("a", htr.Gamma(2.0, 1.0))),
    ],
    ids=repr,
)
def test_no_distribution_without_numbers(law):
    with pytest.raises(htr.PriorError, match="distribution"):
        law.distribution()


PROPER = [
    (htr.Powerlaw(2.5, 0.3), [(0.5, True), (0.41, True), (0.4, False), (0.2, False)]),
    (htr.Lomax(2.5), [(0.41, True), (0.4, False), (3.0, True)]),
    (htr.Frechet(2.5), [(0.3, True), (1 / 3.5, False), (0.28, False)]),
    (htr.HalfCauchy(), [(0.51, True), (0.5, False)]),
    (htr.Gamma(0.5, 1.0), [(1.9, True), (2.0, False), (0.1, True)]),
    (htr.Gamma(3.0, 1.0), [(100.0, True), (0.01, True)]),
    (htr.MarchenkoPastur(1.0), [(1.9, True), (2.0, False)]),
    (htr.MarchenkoPastur(0.5), [(2.0, True)]),
    (htr.Normal(), [(0.01, True), (0.0, False)]),
    (htr.Exponential(), [(0.01, True)]),
    (htr.LogNormal(), [(0.01, True), (9.0, True)]),
    (htr.TruncatedPowerlaw(-2.0, 1.0, 3.0), [(0.01, True), (9.0, True)]),
    (htr.ImproperPowerlaw(2.0), [(1.0, False), (9.0, False)]),
    (htr.Lomax(htr.Hill()), [(1.0, False)]),
    (htr.Lomax(tail_index=htr.Gamma(2.0, 1.0)), [(1.0, True), (0.9, False)]),
    (htr.Normal(0.0, htr.HalfCauchy()), [(1.0, True)]),
]


@pytest.mark.parametrize(("law", "cases"), PROPER, ids=lambda x: str(x)[:30])
def test_properness_at_a_strength(law, cases):
    for strength, proper in cases:
        assert law.is_proper(strength) is proper
        assert htr.MaxEigenvalue(law).scaled(strength).status == (
            "proper" if proper else "improper"
        )


A, B = htr.ESD(htr.Lomax(2.0)), htr.Entries(htr.Normal())


@pytest.mark.parametrize(
    ("prior", "status"),
    [
        (A & B, "proper"),
        (A & htr.ESD(htr.ImproperPowerlaw(2.0)), "improper"),
        (A.scaled(0.5) & B, "improper"),
        ((A.scaled(2.0) & B).scaled(0.3), "proper"),
        ((A.scaled(2.0) & B).scaled(0.2), "improper"),
        (A.scaled(0.0), "improper"),
        (A.above(0.0), "improper"),
        (htr.ESD(htr.Lomax(2.0), tail=0.5), "improper"),
        (htr.StableRank(htr.Exponential()), "factor"),
        (htr.StableRank(htr.Exponential()) & A, "factor"),
        (htr.penalties.weight_decay(), "proper"),
        (htr.penalties.spectral_norm(), "proper"),
        (htr.penalties.nuclear_norm(), "proper"),
        (htr.penalties.weighted_alpha(), "improper"),
        (htr.penalties.stable_rank(), "factor"),
        (htr.penalties.powerlaw(), "improper"),
        (htr.penalties.frechet(), "improper"),
    ],
    ids=repr,
)
def test_status(prior, status):
    assert prior.status == status


def test_penalties_pass_the_fraction_on():
    for name in ("weighted_alpha", "powerlaw", "frechet"):
        prior = getattr(htr.penalties, name)(0.2)
        assert prior.law.hill.fraction == 0.2
        assert prior.law.hill.differentiable is (name == "weighted_alpha")

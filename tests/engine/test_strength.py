"""Strength, schedules, thresholds and products."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import bayes_htr as htr

A = htr.ESD(htr.Lomax(2.5, 0.7))
B = htr.Entries(htr.Normal(0.0, 0.5))
CONJUGATE = htr.ESD(htr.Lomax(tail_index=htr.Gamma(2.0, 3.0)))


@pytest.fixture(name="W", params=[torch.float32, torch.float64], ids=str)
def matrix(request):
    return torch.randn(4, 6, dtype=request.param)


def test_factors_add_and_strengths_multiply(evaluate):
    W = torch.randn(4, 6, dtype=torch.float64)
    (a, ga), (b, gb) = evaluate(A, W), evaluate(B, W)
    value, gradient = evaluate(
        htr.Priors((A.scaled(2.0) & B.scaled(3.0).scaled(5.0)).scaled(7.0))
        .scaled(11.0)
        .scaled(0.5),
        W,
    )
    torch.testing.assert_close(value, 7 * 5.5 * (2 * a + 15 * b), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, 7 * 5.5 * (2 * ga + 15 * gb), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (htr.PowerDecay(2.0), [1, 1, 1 / 4, 1 / 9]),
        (htr.PowerDecay(1.0, period=2), [1, 1, 1, 1, 1 / 2, 1 / 2, 1 / 3]),
        (htr.PowerDecay(1.0, cutoff=0.25), [1, 1, 1 / 2, 1 / 3, 0, 0]),
        (htr.PowerDecay(0.0), [1, 1, 1]),
        (htr.ExpDecay(0.5), [1, math.exp(-0.5), math.exp(-1)]),
        (htr.ExpDecay(1.0, period=3, cutoff=0.2), [1, 1, 1] + 3 * [math.exp(-1)] + [0, 0]),
    ],
    ids=repr,
)
def test_schedules(schedule, factors, W, evaluate):
    full, gradient = evaluate(A & B, W)
    for epoch, factor in enumerate(factors):
        assert schedule(epoch) == pytest.approx(factor, rel=1e-15)
        for scheduled in ((A & B).scheduled(schedule), htr.Priors(A & B).scheduled(schedule)):
            value, slope = evaluate(scheduled, W, epoch)
            torch.testing.assert_close(value, factor * full)
            torch.testing.assert_close(slope, factor * gradient)


def test_schedules_multiply_and_need_an_epoch(W, evaluate):
    decay = htr.ExpDecay(1.0)
    priors = htr.Priors(A.scheduled(decay).scheduled(decay)).scheduled(decay)
    torch.testing.assert_close(evaluate(priors, W, 2)[0], math.exp(-6) * evaluate(A, W)[0])
    for one in (htr.Priors(A.scheduled(decay)), htr.Priors(A).scheduled(decay)):
        with pytest.raises(htr.PriorError, match="epoch"):
            evaluate(one, W)
        for bad in (-1, 0.5, True, "1"):
            with pytest.raises(htr.PriorError, match="epoch"):
                evaluate(one, W, bad)


@pytest.mark.parametrize("prior", [A, B, A & B, CONJUGATE], ids=repr)
@pytest.mark.parametrize("strength", [1.0, 3.3, 0.07])
def test_a_threshold_judges_the_penalty_before_strength(prior, strength, W, evaluate):
    penalty = evaluate(prior, W)[0].item()
    full, gradient = evaluate(prior.scaled(strength), W)
    above = math.nextafter(penalty, math.inf)
    if prior == A & B:  # a sum is rounded
        penalty, above = penalty - 1e-6 * abs(penalty), above + 1e-6 * abs(penalty)
    for make in (
        lambda t: prior.above(t).scaled(strength),
        lambda t: prior.scaled(strength).above(t),
        lambda t: htr.Priors(prior).above(t).scaled(strength),
        lambda t: htr.Priors(prior.scaled(strength)).above(t).above(t - 1),
    ):
        value, slope = evaluate(make(penalty), W)  # exactly at the threshold it acts
        torch.testing.assert_close(value, full)
        torch.testing.assert_close(slope, gradient)
        value, slope = evaluate(make(above), W)
        assert value == 0
        assert (slope == 0).all()


def test_a_threshold_on_a_prior_judges_each_matrix_and_on_priors_the_sum():
    net = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)).double()
    a, b = (v.item() for v in htr.bind(htr.Priors(A), net, refresh=htr.Exact()).terms().values())
    low, high = sorted((a, b))
    between = (low + high) / 2
    each = htr.bind(htr.Priors(A.above(between)), net, refresh=htr.Exact())()
    assert each.item() == pytest.approx(high)
    assert htr.bind(
        htr.Priors(A).above(between), net, refresh=htr.Exact()
    )().item() == pytest.approx(a + b)
    assert htr.bind(htr.Priors(A).above(a + b), net, refresh=htr.Exact())().item() == pytest.approx(
        a + b
    )
    assert htr.bind(htr.Priors(A).above(a + b + 1e-9), net, refresh=htr.Exact())().item() == 0


def test_a_threshold_inside_a_product_is_for_its_own_factor(W, evaluate):
    a, b = evaluate(A, W)[0], evaluate(B, W)[0]
    big = 1e9
    torch.testing.assert_close(evaluate(A.above(big) & B, W)[0], b)
    torch.testing.assert_close(evaluate(B & A.above(big) & A, W)[0], a + b)
    torch.testing.assert_close(evaluate((A & B.above(big)).above(-big), W)[0], a)
    assert evaluate((A.above(-big) & B).above(big), W)[0] == 0


def test_a_closed_gate_keeps_the_hyperprior(one_matrix):
    prior = htr.MaxEigenvalue(htr.Frechet(htr.Gamma(2.0, 1.0)))
    for priors in (htr.Priors(prior.above(1e9)), htr.Priors(prior).above(1e9)):
        energy = htr.bind(priors, one_matrix(torch.randn(4, 6)), refresh=htr.Exact())
        (hyper,) = energy.latents()
        torch.testing.assert_close(energy(), energy.terms()[hyper])


@pytest.mark.parametrize("bad", [0.0, float("nan")])
def test_strength_zero_does_no_decomposition(bad, monkeypatch, evaluate):
    for name in ("svd", "svdvals", "eigh", "qr"):
        monkeypatch.setattr(torch.linalg, name, None)
    W = torch.full((100, 110), bad)
    everything = htr.penalties.powerlaw() & htr.penalties.stable_rank() & CONJUGATE & B
    decay = htr.ExpDecay(5.0, cutoff=0.5)
    for priors in (
        htr.Priors(everything).scaled(0.0),
        htr.Priors(everything.scaled(0.0)),
        htr.Priors(everything).scheduled(decay),
        htr.Priors(everything.scheduled(decay)),
    ):
        value, gradient = evaluate(priors, W, epoch=1)
        assert value == 0
        assert (gradient == 0).all()


def test_a_factor_of_strength_zero_costs_nothing(monkeypatch, evaluate):
    monkeypatch.setattr(torch.linalg, "svdvals", None)
    W = torch.randn(100, 110)
    top = htr.penalties.spectral_norm()
    value, gradient = evaluate(htr.penalties.powerlaw().scaled(0.0) & top, W)
    expected, slope = evaluate(top, W)
    torch.testing.assert_close((value, gradient), (expected, slope))

"""The spectral guide: draws, gradients that are held, hyperparameters."""

from __future__ import annotations

import copy
import json
import pickle
from collections import OrderedDict

import pytest
import scipy
import torch
from torch import nn
from torch.distributions import Gamma, kl_divergence

import bayes_htr as htr
from bayes_htr.errors import CheckpointError, PriorError, SpectrumError
from bayes_htr.inference.guides import SpectralGuide
from bayes_htr.inference.guides.eigenvalues import EigenvaluePosterior
from bayes_htr.inference.guides.hyperparameters import HyperparameterMoments
from bayes_htr.priors.matrix_prior import spectrum_of

LOMAX = htr.ESD(htr.Lomax(2.0, 0.7))
TOP = htr.MaxEigenvalue(htr.Frechet(2.0, 1.0))
GAMMA = htr.ESD(htr.Lomax(tail_index=htr.Gamma(9.0, 3.0)))


def guide_of(prior, net, **options):
    priors = prior if isinstance(prior, htr.Priors) else htr.Priors(prior)
    model = htr.BayesianClassifier(net, priors)
    return SpectralGuide(model.densities(0), **options)


def linear(m, n, seed=0, dtype=torch.float64):
    """A layer with well separated singular values."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Linear(n, m, dtype=dtype)
        nn.init.normal_(net.weight)
    return net


def eigenvalues_by_frame(W_0, W):
    """Those of `W` in the frames of `W_0`, and how far the rest of `W` is from zero."""
    U, _, Vh = torch.linalg.svd(W_0, full_matrices=False)
    S = U.mT @ W @ Vh.mT
    rest = W - U @ S.diagonal().diag() @ Vh
    return S.diagonal().square(), rest.abs().max().item()


@pytest.mark.parametrize("prior", [LOMAX, TOP, htr.ESD(htr.Powerlaw(2.5, 0.01))], ids=repr)
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (1, 6), (6, 1)], ids=str)
def test_draws_have_the_frames_of_the_weights_and_eigenvalues_of_the_law(prior, shape):
    guide = guide_of(prior, linear(*shape), init_scale=0.3)
    W_0 = guide.weights[0].detach()
    torch.manual_seed(0)
    found = guide.rsample()["weight"].detach()
    lam, rest = eigenvalues_by_frame(W_0, found)
    assert rest < 1e-10
    torch.manual_seed(0)
    noise = torch.randn(min(shape), dtype=torch.float64)
    law = EigenvaluePosterior(guide.priors[0].matrices[0], min(shape))
    lam_0 = spectrum_of(W_0)
    factors = law.factors(lam_0, guide.states[0].spread, noise)
    torch.testing.assert_close(lam, lam_0 * factors.square().detach(), rtol=1e-8, atol=0)


def test_a_draw_of_few_directions_changes_those_alone():
    guide = guide_of(LOMAX, linear(6, 4), init_scale=0.3, directions=2)
    W_0 = guide.weights[0].detach()
    lam, rest = eigenvalues_by_frame(W_0, guide.rsample()["weight"].detach())
    assert rest < 1e-10
    changed = ((lam / spectrum_of(W_0)).log().abs() > 1e-8).tolist()
    assert changed == [True, True, False, False]
    assert (guide.spectra()["weight"].spread > 0).tolist() == changed


@pytest.mark.parametrize("prior", [LOMAX, TOP, LOMAX & TOP, GAMMA], ids=repr)
@pytest.mark.parametrize(
    "net",
    [
        linear(5, 3),
        linear(3, 5),
        linear(1, 6),
        nn.Conv2d(3, 4, 2, dtype=torch.float64),
        nn.ConvTranspose2d(3, 4, 2, dtype=torch.float64),
        nn.MultiheadAttention(4, 2, dtype=torch.float64),
    ],
    ids=["tall", "wide", "one row", "convolution", "transposed", "attention"],
)
def test_gradient_of_the_divergence_is_that_of_the_eigenvalues(prior, net):
    """At a refresh: against automatic differentiation through the eigenvalues of each matrix."""
    guide = guide_of(prior, net, init_scale=0.3)
    sample = guide.rsample()
    found = torch.autograd.grad(guide.kl(sample), list(guide.weights), allow_unused=True)
    given = guide.hyperparameters.moments(sample, guide._conditional())
    total = guide.hyperparameters.kl(guide._conditional())
    for p, W in zip(guide.priors, guide.weights, strict=True):
        for name, matrix in p.split(W).items():
            held = guide.state_of(name)
            total = total + held.law.kl(spectrum_of(matrix), held.spread, given)
    expected = torch.autograd.grad(total, list(guide.weights), allow_unused=True)
    torch.testing.assert_close(guide.kl(sample), total, rtol=1e-10, atol=1e-10)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("gamma", [False, True], ids=["numbers", "learnt hyperparameter"])
@pytest.mark.parametrize(
    "net",
    [
        linear(4, 6),
        nn.Conv2d(3, 4, 2, dtype=torch.float64).to(memory_format=torch.channels_last),
        nn.ConvTranspose2d(3, 4, 2, dtype=torch.float64),
        nn.ConvTranspose2d(4, 4, 2, dtype=torch.float64),
        nn.MultiheadAttention(4, 2, dtype=torch.float64),
    ],
    ids=["linear", "channels last", "transposed", "square transposed", "attention"],
)
def test_the_gradient_of_a_step_is_that_of_the_divergence(net, gamma):
    """Its graph and what is added, to gradients that are there; after weights have moved."""
    scale = htr.LogNormal(0.0, 1.0) if gamma else 0.7
    priors = {"*weight": htr.ESD(htr.Lomax(2.0, scale)), "*bias": htr.Entries(htr.Normal())}
    guide = guide_of(htr.Priors(priors), net, init_scale=0.3, refresh=htr.Every(100))
    guide.rsample()
    with torch.no_grad():
        for W in guide.weights:
            W *= 1.04
    sample = guide.rsample()
    learnt = list(guide.parameters())
    whole = 0.3 * guide.kl(sample)
    expected = torch.autograd.grad(whole, learnt, allow_unused=True, retain_graph=True)
    for i, W in enumerate(guide.weights):
        W.grad = None if i else torch.ones_like(W)
    in_step = guide.kl_in_step(sample)
    torch.testing.assert_close(in_step, guide.kl(sample))
    (0.3 * in_step).backward()
    guide.add_known_gradient(0.3)
    for i, (p, gradient) in enumerate(zip(learnt, expected, strict=True)):
        there = 1.0 if p is guide.weights[0] else 0.0
        if gradient is not None:
            torch.testing.assert_close(p.grad, gradient + there, msg=str(i))


def test_gradient_at_tied_eigenvalues():
    """Of a function of the whole spectrum it is smooth: central differences agree."""
    net = linear(4, 6)
    with torch.no_grad():
        U, _, Vh = torch.linalg.svd(net.weight, full_matrices=False)
        net.weight.copy_(U @ torch.tensor([2.0, 2.0, 1.0, 1.0]).double().diag() @ Vh)
    guide = guide_of(LOMAX, net, init_scale=0.3)
    sample = guide.rsample()
    (found,) = torch.autograd.grad(guide.kl(sample), guide.weights[0])
    law, spread = guide.states[0].law, guide.states[0].spread.detach()
    direction = torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).double()
    W, h = net.weight.detach(), 1e-5
    ends = [
        law.kl(spectrum_of(W + t * direction), spread, HyperparameterMoments()) for t in (-h, h)
    ]
    expected = (ends[1] - ends[0]) / (2 * h)
    torch.testing.assert_close((found * direction).sum(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("prior", [LOMAX, TOP], ids=repr)
def test_gradient_of_a_draw(prior):
    """With respect to weights and spreads, frames held."""
    guide = guide_of(prior, linear(4, 6), init_scale=0.3)
    guide.rsample()
    held = guide.states[0]
    noise = torch.tensor([0.5, -1.0, 2.0, 0.1], dtype=torch.float64)
    W = guide.weights[0].detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda W: held.with_noise(W, noise), W)
    found = torch.autograd.grad(held.with_noise(W, noise).square().sum(), held.log_spread)[0]
    # |W|_F^2 is the sum of the eigenvalues.
    log_spread = held.log_spread.detach().clone().requires_grad_()
    factors = held.law.factors(spectrum_of(W.detach()), log_spread.exp(), noise)
    total = (spectrum_of(W.detach()) * factors.square()).sum()
    torch.testing.assert_close(found, torch.autograd.grad(total, log_spread)[0])


def test_between_refreshes_the_divergence_is_linear_in_the_weights():
    guide = guide_of(LOMAX, linear(4, 6), refresh=htr.Every(100))
    sample = guide.rsample()
    start = guide.kl(sample)
    (slope,) = torch.autograd.grad(start, guide.weights[0])
    step = 0.1 * torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        guide.weights[0] += step
    moved = guide.kl(guide.rsample())
    torch.testing.assert_close(moved - start, (slope * step).sum())
    guide.refresh()
    exact = guide.states[0].law.kl(
        spectrum_of(guide.weights[0]), guide.states[0].spread, HyperparameterMoments()
    )
    torch.testing.assert_close(guide.kl(sample), exact)
    assert abs(exact - moved) > 1e-4


@pytest.mark.parametrize(
    ("policy", "calls"),
    [(htr.Exact(), [0, 1, 2, 3, 4, 5, 6]), (htr.Every(3), [0, 3, 6]), (htr.Drift(0.1, 2), [0, 3])],
    ids=repr,
)
def test_refreshes(policy, calls):
    """Weights grow by 4 % at each step."""
    guide = guide_of(LOMAX, linear(4, 6), refresh=policy)
    seen = []
    for call in range(7):
        before = guide.states[0].reference.clone()
        guide.rsample()
        if not torch.equal(before, guide.states[0].reference):
            seen.append(call)
        with torch.no_grad():
            guide.weights[0] *= 1.04
    assert seen == calls


@pytest.mark.parametrize(
    ("by", "looks"), [(0.06, [0, 3, 6, 7]), (0.02, [0, 3, 6])], ids=["moved", "hardly moved"]
)
def test_other_draws_of_a_step_do_not_count(by, looks):
    """Neither for `Every(3)` nor for the check of every fourth step whether spreads have moved."""
    guide = guide_of(LOMAX, linear(4, 6), refresh=htr.Every(3))
    held = guide.states[0]
    refreshed, looked = [], []
    for step in range(8):
        before = held.reference.clone(), held.reference_log_spread.clone()
        draws = [guide.rsample(), guide.rsample(again=True), guide.rsample(again=True)]
        assert not torch.equal(draws[1]["weight"], draws[2]["weight"])
        if not torch.equal(before[0], held.reference):
            refreshed.append(step)
        if not torch.equal(before[1], held.reference_log_spread):
            looked.append(step)
        with torch.no_grad():
            guide.weights[0] *= 1.04
            held.log_spread[1] -= by
    assert refreshed == [0, 3, 6]
    assert looked == looks
    assert int(guide.calls) == 8


@pytest.mark.parametrize("prior", [LOMAX, TOP, GAMMA], ids=repr)
def test_a_spread_of_zero_raises(prior):
    """Only the slope of its own logarithm is not a number."""
    guide = guide_of(prior, linear(4, 6), refresh=htr.Exact())
    guide.rsample()
    with torch.no_grad():
        guide.states[0].log_spread[1] = -800.0
    with pytest.raises(SpectrumError, match=r"weight: the KL .* is not finite .* spreads"):
        guide.rsample()


@pytest.mark.parametrize("prior", [LOMAX, TOP, GAMMA], ids=repr)
def test_between_looks_the_divergence_is_linear_in_log_spreads(prior):
    guide = guide_of(prior, linear(4, 6), refresh=htr.Every(100), init_scale=0.3)
    held = guide.states[0]
    start = guide.kl(guide.rsample())
    (slope,) = torch.autograd.grad(start, held.log_spread)
    step = torch.tensor([0.3, -0.2, 0.1, 0.5], dtype=torch.float64)
    with torch.no_grad():
        held.log_spread += step
    found = [guide.kl(guide.rsample()) for _ in range(3)]
    torch.testing.assert_close(found[0] - start, (slope * step).sum())
    assert torch.equal(found[0], found[1])
    exact = guide_of(prior, linear(4, 6), init_scale=0.3)
    with torch.no_grad():
        exact.states[0].log_spread += step
    torch.testing.assert_close(found[2], exact.kl(exact.rsample()))
    assert abs(found[2] - found[1]) > 1e-3


@pytest.mark.parametrize(("prior", "all_of_them"), [(LOMAX, False), (GAMMA, True)])
def test_the_divergence_of_changed_matrices_alone_is_evaluated(prior, all_of_them):
    """A hyperparameter's posterior follows from all matrices, and changes that of the others."""
    net = nn.Sequential(linear(5, 6), linear(4, 5)).double()
    guide = guide_of(prior, net, refresh=htr.Every(100), init_scale=0.3)
    guide.rsample()
    first, second = guide.states
    with torch.no_grad():
        first.log_spread += 0.2
        second.log_spread += 0.02
    before = second.spread_slope.clone(), second.reference_log_spread.clone()
    for _ in range(3):
        guide.rsample()
    assert torch.equal(first.reference_log_spread, first.log_spread)
    assert torch.equal(second.reference_log_spread, second.log_spread) == all_of_them
    assert torch.equal(second.spread_slope, before[0]) != all_of_them
    fresh = guide_of(prior, net, init_scale=0.3)
    with torch.no_grad():
        fresh.states[0].log_spread.copy_(first.log_spread)
        fresh.states[1].log_spread.copy_(second.reference_log_spread)
    fresh.rsample()
    for state, other in zip(guide.states, fresh.states, strict=True):
        torch.testing.assert_close(state.spread_slope, other.spread_slope)


def test_a_refresh_of_one_matrix_leaves_no_spread_of_another_unseen():
    net = nn.Sequential(linear(5, 6), linear(4, 5)).double()
    guide = guide_of(LOMAX, net, refresh=htr.Drift(0.1, check_every=4), init_scale=0.3)
    guide.rsample()
    with torch.no_grad():
        guide.weights[0] *= 2
        guide.states[1].log_spread += 0.2
    for _ in range(3):
        guide.rsample()
    first, second = guide.states
    assert torch.equal(first.reference, guide.weights[0])
    assert torch.equal(second.reference_log_spread, second.log_spread)


def test_spectra_that_are_shown_have_all_digits_after_a_refresh_in_float32():
    net = linear(40, 60, dtype=torch.float32)
    with torch.no_grad():
        U, _, Vh = torch.linalg.svd(net.weight, full_matrices=False)
        net.weight.copy_(U @ torch.logspace(0, -1.9, 40).diag() @ Vh)
    guide = guide_of(LOMAX, net)
    guide.refresh()
    exact = torch.linalg.svdvals(guide.weights[0].detach().double()).square()
    held = guide.states[0].eigenvalues
    torch.testing.assert_close(held, exact, rtol=1e-2, atol=0)
    assert not torch.allclose(held, exact, rtol=1e-6, atol=0)  # it was in float32
    torch.testing.assert_close(guide.spectra()["weight"].median, exact, rtol=1e-9, atol=0)


def test_spreads_stay_with_their_frames_when_eigenvalues_change_places():
    guide = guide_of(LOMAX, linear(4, 6), refresh=htr.Exact())
    guide.rsample()
    with torch.no_grad():
        held = guide.states[0]
        held.log_spread.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]).log())
        U, sigma, Vh = torch.linalg.svd(guide.weights[0], full_matrices=False)
        guide.weights[0].copy_(U @ sigma[[1, 0, 3, 2]].diag() @ Vh)
    guide.rsample()
    median, spread = guide.spectra()["weight"]
    torch.testing.assert_close(median, sigma[[1, 0, 3, 2]].square())
    torch.testing.assert_close(spread, 2 * torch.tensor([0.1, 0.2, 0.3, 0.4]).double())


@pytest.mark.parametrize("size", [0.02, 0.1])
@pytest.mark.parametrize("directions", [None, 5])
def test_places_are_those_of_the_largest_overlaps(size, directions):
    """Where vectors are known again, an assignment of all of them finds the same places."""
    guide = guide_of(LOMAX, linear(12, 9), directions=directions)
    guide.refresh()
    state, free = guide.states[0], directions or 9
    generator = torch.Generator().manual_seed(0)
    compared = 0
    for _ in range(20):
        A = size * torch.randn(9, 9, generator=generator, dtype=torch.float64)
        order = torch.arange(free)
        order[1:4] = 1 + torch.randperm(3, generator=generator)
        vectors = (torch.linalg.matrix_exp(A - A.mT) @ state.frames)[:, order]
        overlaps = (state.frames.mT @ vectors).square()
        _, expected = scipy.optimize.linear_sum_assignment(-overlaps.numpy())
        found = state._places(vectors)
        assert sorted(found.tolist()) == list(range(free))
        if bool((overlaps.amax(1) > 0.5).all()):
            compared += 1
            assert found.tolist() == expected.tolist()
    assert compared >= 5


def test_vectors_that_are_not_known_again_take_the_places_left_in_order():
    """The places whose vectors have turned among each other are those of close eigenvalues."""
    guide = guide_of(LOMAX, linear(8, 6))
    guide.refresh()
    state = guide.states[0]
    with torch.no_grad():
        state.eigenvalues.copy_(torch.tensor([6.0, 1.0, 4.0, 3.0, 2.0, 5.0]))
    turn = torch.eye(6, dtype=torch.float64)
    turn[:2, :2] = torch.tensor([[0.0, 1.0], [1.0, 0.0]])  # two that have changed their order
    tenth = torch.arange(1.0, 5.0).double().outer(torch.arange(1.0, 5.0).double())
    turn[2:, 2:] = (torch.pi / 5 * tenth).sin() * (2 / 5) ** 0.5  # no overlap above 1/2
    assert (turn.mT @ turn).allclose(torch.eye(6).double(), atol=1e-12)
    assert state._places(state.frames @ turn).tolist() == [1, 0, 3, 4, 5, 2]


def test_the_largest_eigenvalue_keeps_the_first_place_when_eigenvalues_change_places():
    """Where a prior has a law of it, its spread is that of the largest, whichever frame it has."""
    guide = guide_of(TOP, linear(4, 6), refresh=htr.Exact())
    guide.rsample()
    held = guide.states[0]
    with torch.no_grad():
        held.log_spread.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]).log())
        U, sigma, Vh = torch.linalg.svd(guide.weights[0], full_matrices=False)
        guide.weights[0].copy_(U @ sigma[[1, 0, 3, 2]].diag() @ Vh)
    guide.rsample()
    torch.testing.assert_close(held.eigenvalues, sigma[[0, 1, 3, 2]].square())
    overlaps = (held.frames.mT @ U[:, [1, 0, 2, 3]]).abs()
    torch.testing.assert_close(overlaps, torch.eye(4).double(), atol=1e-8, rtol=0)
    spread = guide.spectra()["weight"].spread
    torch.testing.assert_close(spread, 2 * torch.tensor([0.1, 0.2, 0.3, 0.4]).double())


@pytest.mark.parametrize(
    "prior",
    [htr.ESD(htr.Powerlaw(2.5, 4.0)), htr.MaxEigenvalue(htr.Powerlaw(2.5, 50.0)), TOP, LOMAX],
    ids=repr,
)
def test_the_centre_has_medians_that_the_prior_allows(prior):
    """In the frames of the weights, between refreshes too; else it is the weights."""
    net = linear(4, 6)
    with torch.no_grad():  # two equal largest ones, which a law of the largest does not allow
        U, _, Vh = torch.linalg.svd(net.weight, full_matrices=False)
        net.weight.copy_(U @ torch.tensor([3.0, 3.0, 2.0, 1.0]).double().diag() @ Vh)
    guide = guide_of(prior, net, refresh=htr.Every(100))
    for factor in (1.0, 1.5):
        W = factor * net.weight.detach()
        with torch.no_grad():
            guide.weights[0].copy_(W)
        if factor == 1.0:
            guide.rsample()
        law, lam = guide.states[0].law, spectrum_of(W)
        found = guide.centre()["weight"]
        assert torch.equal(found, W) == (prior == LOMAX)
        medians = law.medians(lam)
        torch.testing.assert_close(spectrum_of(found), medians.sort(descending=True).values)
        scored = medians[:1] if law.has_ratios else medians
        assert (scored > law.interval.lower).all()


def test_a_gamma_tail_index_has_its_exact_law_given_those_of_the_spectra():
    """`Gamma(a + K, b + E sum log(1 + lambda))`, and no other would have a smaller divergence."""
    guide = guide_of(GAMMA, linear(4, 6), init_scale=0.2)
    guide.rsample()
    (law,) = guide._conditional().values()
    noise = torch.randn(200_000, 4, generator=torch.Generator().manual_seed(2)).double()
    lam = spectrum_of(guide.weights[0].detach()) * (2 * 0.2 * noise).exp()
    assert law.concentration.item() == 9.0 + 4
    assert law.rate.item() == pytest.approx(3.0 + lam.log1p().sum(1).mean().item(), rel=1e-3)

    def total(law):
        given = guide.hyperparameters.moments({}, {"weight:ESD.tail_index": law})
        held = guide.states[0]
        value = held.law.kl(held.eigenvalues, held.spread, given)
        return (value + kl_divergence(law, Gamma(9.0, 3.0))).item()

    others = [Gamma(law.concentration * a, law.rate * b) for a, b in ((1.1, 1), (1, 0.9))]
    assert all(total(law) < total(other) for other in others)
    drawn = guide.draw(torch.Generator().manual_seed(0))["weight:ESD.tail_index"]
    assert drawn.ndim == 0
    assert drawn > 0


@pytest.mark.parametrize("directions", [None, 2])
@pytest.mark.parametrize("kind", [htr.ESD, htr.SingularValues, htr.MaxEigenvalue])
def test_what_a_tail_index_counts(kind, directions):
    """At small spreads: every value that the law scores, points too, to the power of strength."""
    prior = kind(htr.Lomax(tail_index=htr.Gamma(9.0, 3.0))).scaled(2.0)
    guide = guide_of(prior, linear(4, 6), init_scale=1e-5, directions=directions)
    guide.rsample()
    with torch.no_grad():
        guide.weights[0] *= 1.5
    for factor, present in ((1.0, False), (1.5, True)):
        lam = spectrum_of(factor * linear(4, 6).weight.detach())
        scored = {htr.ESD: lam, htr.SingularValues: lam.sqrt(), htr.MaxEigenvalue: lam[:1]}[kind]
        (law,) = guide._conditional(current=present).values()
        assert law.concentration.item() == 9.0 + 2 * len(scored)
        assert law.rate.item() == pytest.approx(3.0 + 2 * scored.log1p().sum().item(), rel=1e-6)


def test_the_divergence_has_that_of_hyperparameters():
    guide = guide_of(GAMMA, linear(4, 6), init_scale=0.2)
    sample = guide.rsample()
    (law,) = guide._conditional().values()
    held = guide.states[0]
    given = guide.hyperparameters.moments(sample, guide._conditional())
    spectrum = held.law.kl(held.eigenvalues, held.spread, given)
    kl = kl_divergence(law, Gamma(law.rate.new_tensor(9.0), 3.0))
    torch.testing.assert_close(guide.kl(sample), spectrum + kl)


def test_a_tail_index_beside_another_hyperparameter_is_learnt():
    law = htr.Lomax(tail_index=htr.Gamma(9.0, 3.0), scale=htr.LogNormal(0.0, 1.0))
    guide = guide_of(htr.ESD(law), linear(4, 6))
    assert guide.hyperparameters.conjugate == {}
    sample = guide.rsample()
    held = guide.states[0]
    given = guide.hyperparameters.moments(sample, {})
    spectrum = held.law.kl(held.eigenvalues, held.spread, given)
    expected = spectrum + guide.hyperparameters.learnt.kl()
    torch.testing.assert_close(guide.kl(sample), expected)


def test_loading_counts_steps_from_there():
    first = guide_of(LOMAX, linear(4, 6), refresh=htr.Every(3))
    other = guide_of(LOMAX, linear(4, 6), refresh=htr.Every(3))
    first.rsample()
    for _ in range(3):
        other.rsample()
    first.load_state_dict(other.state_dict())
    with torch.no_grad():
        first.weights[0] *= 1.1
    first.rsample()  # the fourth
    assert torch.equal(first.states[0].reference, first.weights[0])


def test_hyperparameters_that_are_learnt():
    """A scale beside the tail index, and a shared tail index that entries have, too."""
    prior = htr.ESD(htr.Lomax(2.0, scale=htr.LogNormal(0.0, 1.0)))
    guide = guide_of(prior, linear(4, 6))
    assert guide.hyperparameters.conjugate == {}
    sample = guide.rsample()
    numbers = guide.hyperparameters.learnt.laws[0]
    assert torch.autograd.grad(guide.kl(sample), numbers)[0].abs().min() > 0
    both = htr.ESD(htr.Lomax(tail_index=htr.Shared("t", htr.Gamma(9.0, 3.0))))
    shared = htr.Shared("t", htr.Gamma(9.0, 3.0))
    guide = guide_of(both & htr.Entries(htr.Exponential(shared)), linear(4, 6))
    assert guide.hyperparameters.conjugate == {}


def test_entries_beside_a_spectral_prior_are_scored_at_the_sample():
    normal = htr.Entries(htr.Normal(0.0, 0.5))
    both, alone = guide_of(LOMAX & normal, linear(4, 6)), guide_of(LOMAX, linear(4, 6))
    sample = both.rsample()
    alone.rsample()
    entries = -torch.distributions.Normal(0.0, 0.5).log_prob(sample["weight"]).sum()
    torch.testing.assert_close(both.kl(sample), alone.kl(sample) + entries)


def test_parameters_without_a_spectral_prior_are_points():
    net = nn.Sequential(OrderedDict(fc1=linear(4, 6), fc2=linear(3, 4)))
    priors = htr.Priors({"fc1.weight": LOMAX, "fc1.bias": htr.Entries(htr.Normal(0.0, 1.0))})
    guide = guide_of(priors, net)
    sample = guide.rsample()
    for name, p in net.named_parameters():
        assert torch.equal(sample[name], p) == (name != "fc1.weight")
    found = torch.autograd.grad(guide.kl(sample), guide.weights[1])[0]
    torch.testing.assert_close(found, net.fc1.bias.detach())


def test_draw_and_centre_take_the_frames_of_the_weights_as_they_are():
    guide = guide_of(LOMAX, linear(4, 6), init_scale=0.3, refresh=htr.Every(100))
    guide.rsample()
    with torch.no_grad():
        guide.weights[0].copy_(linear(4, 6, seed=5).weight)
    held = {n: b.clone() for n, b in guide.named_buffers()}
    generator = torch.Generator().manual_seed(0)
    drawn = guide.draw(generator)["weight"]
    assert eigenvalues_by_frame(guide.weights[0].detach(), drawn)[1] < 1e-10
    assert torch.equal(guide.centre()["weight"], guide.weights[0])
    assert all(torch.equal(b, held[n]) for n, b in guide.named_buffers())


@pytest.mark.parametrize(
    "net", [linear(4, 6), nn.ConvTranspose2d(3, 4, 2, dtype=torch.float64)], ids=["", "transposed"]
)
def test_draws_follow_weights_that_move_between_refreshes(net):
    """A transposed convolution's matrix is a copy, which cannot tell that the weights moved."""
    guide = guide_of(htr.Priors({"weight": LOMAX}), net, refresh=htr.Every(100))
    guide.rsample()
    for seed in (1, 2):
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(net.weight.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            guide.weights[0] += noise
        matrix = guide.priors[0].split(guide.weights[0].detach())["weight"]
        found = guide.spectra()["weight"].median.sort(descending=True).values
        torch.testing.assert_close(found, spectrum_of(matrix))


def test_a_schedule_that_ends_makes_points():
    net = linear(4, 6)
    priors = htr.Priors(htr.ESD(htr.Lomax(9.0))).scheduled(htr.PowerDecay(1.0, 1, cutoff=0.4))
    model = htr.BayesianClassifier(net, priors)
    guide = SpectralGuide(model.densities(0))
    first = guide.kl(guide.rsample())
    guide.set_epoch(model.densities(2), 2)
    second = guide.kl(guide.rsample())
    half = SpectralGuide(htr.BayesianClassifier(net, priors).densities(2))
    torch.testing.assert_close(second, half.kl(half.rsample()))
    assert second < first
    guide.set_epoch(model.densities(3), 3)
    assert guide.kl(guide.rsample()).item() == 0.0
    assert torch.equal(guide.rsample()["weight"], guide.weights[0])
    assert guide.spectra() == {}


@pytest.mark.parametrize("full_gradient", [False, True], ids=["", "full gradient"])
def test_it_copies_pickles_and_is_rebuilt(full_gradient):
    net = nn.Sequential(OrderedDict(fc1=linear(4, 6), fc2=linear(3, 4)))
    model = htr.BayesianClassifier(net, htr.Priors(GAMMA & TOP))
    guide = SpectralGuide(
        model.densities(0), directions=2, refresh=htr.Every(7), full_gradient=full_gradient
    )
    for _ in range(3):
        guide.kl(guide.rsample()).backward()
    settings = json.loads(json.dumps(guide.settings()))
    if not full_gradient:  # as earlier versions have written them
        assert not settings.pop("full_gradient")
        assert not any("turning" in key for key in guide.state_dict())
    rebuilt = SpectralGuide.from_state(model, settings, guide.state_dict())
    others = (rebuilt, copy.deepcopy(guide), pickle.loads(pickle.dumps(guide)))
    expected = [guide.draw(torch.Generator().manual_seed(0)), None]
    torch.manual_seed(0)
    expected[1] = guide.rsample()
    for other in others:
        found = [other.draw(torch.Generator().manual_seed(0)), None]
        torch.manual_seed(0)
        found[1] = other.rsample()
        for a, b in zip(expected, found, strict=True):
            assert a.keys() == b.keys()
            assert all(torch.equal(a[name], b[name]) for name in a)
    with pytest.raises(CheckpointError, match="spectral"):
        SpectralGuide.from_state(model, settings | {"directions": 3}, guide.state_dict())


def test_the_dtype_of_the_weights_is_kept():
    guide = guide_of(LOMAX, linear(4, 6, dtype=torch.float32))
    sample = guide.rsample()
    assert sample["weight"].dtype == torch.float32
    assert guide.kl(sample).dtype == torch.float64
    assert guide.draw(torch.Generator())["weight"].dtype == torch.float32


def test_weights_that_it_cannot_take():
    net = linear(4, 6)
    with torch.no_grad():
        net.weight[3] = net.weight[2]
    with pytest.raises(SpectrumError, match="weight has rank 3 of 4"):
        guide_of(LOMAX, net).rsample()
    with torch.no_grad():
        net.weight[0, 0] = torch.nan
    with pytest.raises(SpectrumError, match="weight"):
        guide_of(LOMAX, net).rsample()
    beside = htr.MaxEigenvalue(htr.Frechet(2.0)) & htr.ESD(htr.Powerlaw(2.5, 0.1))
    with pytest.raises(PriorError, match=r"weight: .*on \(0, inf\) only"):
        guide_of(beside, linear(4, 6))


def test_a_long_matrix_with_small_eigenvalues_has_full_rank():
    """Its smallest eigenvalue is 1.1e-4 of the largest, which float32 has at any length."""
    net = linear(1200, 32, dtype=torch.float32)
    with torch.no_grad():
        U, _, Vh = torch.linalg.svd(net.weight.double(), full_matrices=False)
        net.weight.copy_(U * torch.linspace(1, 1.05e-2, 32) @ Vh)
    guide = guide_of(LOMAX, net)
    assert guide.rsample()["weight"].shape == (1200, 32)
    with torch.no_grad():
        net.weight[:, 3] = net.weight[:, 2]
    with pytest.raises(SpectrumError, match="weight has rank 31 of 32"):
        guide_of(LOMAX, net).rsample()

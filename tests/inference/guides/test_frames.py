"""Singular vectors with their gradient, and the full gradient of the bound with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import bayes_htr as htr
from bayes_htr.inference.guides import SpectralGuide
from bayes_htr.inference.guides import spectral_state as states
from bayes_htr.inference.guides.frames import follow, inverse_gaps
from bayes_htr.inference.guides.per_example import ExampleNoise
from tests.reference.quadrature import (
    linear_likelihood,
    log_eigenvalues_by_quadrature,
)

LOMAX = htr.ESD(htr.Lomax(2.0))
TOP = htr.MaxEigenvalue(htr.Frechet(2.0))
SHAPES = pytest.mark.parametrize("shape", [(5, 3), (3, 5), (3, 3)], ids=str)
DIRECTIONS = pytest.mark.parametrize("directions", [None, 2], ids=["all", "two"])


@pytest.fixture
def exact_gaps(monkeypatch):
    """Gaps are not widened, so that gradients are exact."""
    monkeypatch.setattr(states, "GAP_WIDTH", 0.0)


def linear(m, n, seed=0):
    net = nn.Linear(n, m, bias=False, dtype=torch.float64)
    with torch.no_grad():
        net.weight.copy_(torch.randn(m, n, generator=torch.Generator().manual_seed(seed)))
    return net


def guide_of(net, prior=LOMAX, **options):
    densities = htr.BayesianClassifier(net, htr.Priors({"*weight": prior})).densities(0)
    return SpectralGuide(densities, refresh=htr.Exact(), **options)


def classes(inputs, number, n=37, noise=0.7):
    """`n` examples of which a linear classifier gets most right."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, inputs, generator=generator, dtype=torch.float64)
    W = torch.randn(number, inputs, generator=generator, dtype=torch.float64)
    scores = x @ W.T + noise * torch.randn(n, number, generator=generator, dtype=torch.float64)
    return x, scores.argmax(1)


def bound(guide, x, y, nodes=5):
    """The bound of a linear classifier with every expectation a sum over Gauss-Hermite nodes."""
    state, W = guide.states[0], guide.weights[0]
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    grid = [torch.tensor(points)] * state.law.free
    noise = torch.cartesian_prod(*grid).reshape(-1, state.law.free)
    shares = torch.cartesian_prod(*[torch.tensor(weights / weights.sum())] * state.law.free)
    V = state.vectors(W if state.is_tall else W.mT)
    draws = torch.vmap(lambda eps: state.with_noise(W, eps, V))(noise)
    scores = torch.log_softmax(x @ draws.mT, -1)
    log_likelihoods = scores.gather(2, y.expand(len(noise), -1)[..., None]).sum((1, 2))
    return shares.reshape(len(noise), -1).prod(1) @ log_likelihoods - guide.kl({})


# Singular vectors


@SHAPES
@pytest.mark.parametrize("free", [3, 2, 1])
def test_gradient_of_singular_vectors_is_that_of_eigh(shape, free):
    W = linear(*shape).weight
    tall = W if shape[0] >= shape[1] else W.mT
    values, vectors = (part.flip(-1) for part in torch.linalg.eigh(tall.mT @ tall))
    weight = torch.randn(free, 3, dtype=torch.float64)

    def f(V):  # sees the vectors, and not their signs
        return (V @ weight @ V.mT @ torch.arange(9.0).double().view(3, 3)[: len(V), : len(V)]).sum()

    weight = torch.diag(torch.arange(1.0, free + 1)).double()
    (expected,) = torch.autograd.grad(f(vectors[:, :free]), W, retain_graph=True)
    fixed = vectors.detach()
    inverse = inverse_gaps(values.detach(), free, 0.0)
    followed = follow(tall, fixed[:, :free], fixed[:, free:], inverse)
    assert torch.equal(followed, fixed[:, :free])
    (found,) = torch.autograd.grad(f(followed), W)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_gaps_are_widened():
    values = torch.tensor([4.0, 1.0, 1.0], dtype=torch.float64)
    inverse = inverse_gaps(values, 2, 0.2)
    gap = 3 / (9 + 0.25)
    expected = torch.tensor([[0, -gap], [gap, 0], [gap, 0]], dtype=torch.float64)
    torch.testing.assert_close(inverse, expected)
    close = torch.tensor([1.0, 1.0 - 1e-12], dtype=torch.float64)
    assert inverse_gaps(close, 2, 0.2).abs().max() < 1e-9
    torch.testing.assert_close(
        inverse_gaps(values, 1, 0.0)[1:, 0], torch.full((2,), 1 / 3).double()
    )


# The gradient of the bound


@pytest.mark.usefixtures("exact_gaps")
@SHAPES
@DIRECTIONS
@pytest.mark.parametrize("prior", [LOMAX, TOP, LOMAX & TOP], ids=["all", "largest", "both"])
def test_full_gradient_is_that_of_the_bound(shape, directions, prior):
    """Central differences in every weight, singular vectors computed anew; spreads as well."""
    x, y = classes(shape[1], shape[0])
    net = linear(*shape)

    def at(W):
        net.weight.data.copy_(W)
        guide = guide_of(net, prior, init_scale=0.4, directions=directions, full_gradient=True)
        guide.refresh()
        return guide

    W = net.weight.detach().clone()
    guide = at(W)
    (found,) = torch.autograd.grad(bound(guide, x, y), [guide.weights[0]])
    h, expected = 1e-5, torch.zeros_like(W)
    with torch.no_grad():
        for place in np.ndindex(*shape):
            step = torch.zeros_like(W)
            step[place] = h
            expected[place] = (bound(at(W + step), x, y) - bound(at(W - step), x, y)) / (2 * h)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    fixed = guide_of(net, prior, init_scale=0.4, directions=directions)
    net.weight.data.copy_(W)
    fixed.refresh()
    (semi,) = torch.autograd.grad(bound(fixed, x, y), [fixed.weights[0]])
    assert (semi - expected).norm() > 1e-3 * expected.norm()


@pytest.mark.parametrize("prior", [LOMAX, TOP], ids=["all", "largest"])
@DIRECTIONS
@pytest.mark.parametrize(
    "net",
    [
        linear(5, 3),
        linear(3, 5),
        nn.Conv2d(2, 3, 2, dtype=torch.float64),
        nn.Conv2d(2, 9, 2, dtype=torch.float64),
    ],
    ids=["tall", "wide", "wide convolution", "tall convolution"],
)
def test_full_gradient_with_a_draw_for_each_example(net, directions, prior):
    """As that of each example with its own matrix."""
    guide = guide_of(net, prior, init_scale=0.4, directions=directions, full_gradient=True)
    shape = (3, net.in_features) if isinstance(net, nn.Linear) else (3, 2, 4, 4)
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    examples = ExampleNoise(guide, net)
    points = guide.points()
    state, W = guide.states[0], guide.weights[0]
    torch.manual_seed(5)
    with examples.drawn(len(x)):
        output = torch.func.functional_call(net, points, (x,))
    (found,) = torch.autograd.grad(output.sin().sum(), [W])
    torch.manual_seed(5)
    total = torch.zeros((), dtype=torch.float64)
    for eps, one in zip(state.noise(examples=len(x)), x, strict=True):
        drawn = state.with_noise(W.flatten(1), eps).view_as(W)
        output = torch.func.functional_call(net, points | {"weight": drawn}, (one[None],))
        total = total + output.sin().sum()
    (expected,) = torch.autograd.grad(total, [W])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


# Where it ends


def ascend(guide, x, y, steps=200):
    """The bound after so many deterministic steps with singular vectors computed at each one."""
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        guide.refresh()
        (-bound(guide, x, y, nodes=16)).backward()
        optimizer.step()
        schedule.step()
    guide.refresh()
    return bound(guide, x, y, nodes=16).item()


def best_bound(x, y, steps=200):
    """The maximum over both frames as angles, log eigenvalues and log spreads, without a guide."""
    points, weights = np.polynomial.hermite_e.hermegauss(16)
    noise = torch.cartesian_prod(*[torch.tensor(points)] * 2)
    shares = torch.cartesian_prod(*[torch.tensor(weights / weights.sum())] * 2).prod(1)
    nodes, at_nodes = (torch.tensor(part) for part in np.polynomial.hermite_e.hermegauss(20))
    best = -math.inf
    for start in (0.0, 1.6):
        free = torch.tensor([start, start, 0.5, -0.5, -1.0, -1.0], dtype=torch.float64)
        free.requires_grad_()
        optimizer = torch.optim.Adam([free], lr=0.1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

        def value(free=free):
            a, b, log_lam, log_s = free[0], free[1], free[2:4], free[4:]
            U, V = (
                torch.stack([torch.stack([t.cos(), -t.sin()]), torch.stack([t.sin(), t.cos()])])
                for t in (a, b)
            )
            sigma = (0.5 * log_lam + log_s.exp() * noise).exp()
            logits = torch.einsum("nk,pk,ck->pnc", x @ V, sigma, U)
            picked = logits.gather(2, y.expand(len(sigma), -1)[..., None]).squeeze(2)
            fitted = shares @ (picked - logits.logsumexp(2)).sum(1)
            u = log_lam + 2 * log_s.exp() * nodes[:, None]
            prior = u - 2 * u.exp().log1p()
            entropy = (math.log(2) + log_s + 0.5 * math.log(2 * math.pi * math.e)).sum()
            return fitted + (at_nodes / at_nodes.sum()) @ prior.sum(1) + entropy

        for _ in range(steps):
            optimizer.zero_grad()
            (-value()).backward()
            optimizer.step()
            schedule.step()
        best = max(best, value().item())
    return best


def test_full_gradient_ends_at_the_maximum_of_the_bound():
    """Against an optimiser over angles, and the evidence given the singular vectors."""
    x, y = classes(2, 2)
    ends = {}
    for full in (False, True):
        net = linear(2, 2)
        guide = guide_of(net, init_scale=0.3, full_gradient=full)
        ends[full] = ascend(guide, x, y)
        net.weight.data.copy_(guide.weights[0])
        exact = log_eigenvalues_by_quadrature(
            lambda lam: -2 * lam.log1p().sum(1), linear_likelihood(net, x, y), 2
        )
        assert 0 < exact.log_evidence - ends[full] < 0.2
    best = best_bound(x, y)
    assert abs(ends[True] - best) < 1e-4
    assert ends[False] < best - 5e-4

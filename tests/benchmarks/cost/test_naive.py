"""The naive energies are the library's: the same value and gradient."""

import pytest
import torch
from torch import nn

import bayes_htr as htr
from bayes_htr.experiments import PRIORS, named_priors
from benchmarks.cost.naive import ENERGIES, TOP_ALONE, NaiveEnergy


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 30), nn.Linear(30, 5)
    ).double()


@pytest.mark.parametrize("name", ENERGIES)
def test_value_and_gradient(name, net):
    priors = named_priors(name, strength=None, num_data=1000)
    naive = NaiveEnergy(name, priors, net, torch.float64)
    energy = htr.bind(priors, net, refresh=htr.Exact())
    value = energy()
    assert naive().item() == pytest.approx(value.item(), rel=1e-10)
    value.backward()
    for parameter, gradient in naive.gradients().items():
        expected = net.get_parameter(parameter).grad
        torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ENERGIES)
def test_a_line_adds_the_scaled_gradient_to_that_of_the_loss(name, net):
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    naive = NaiveEnergy(name, named_priors(name, strength=2.0, num_data=1), net, torch.float64)
    expected = torch.autograd.grad(
        net(x).square().sum() + 0.1 * naive(), list(net.parameters()), materialize_grads=True
    )
    naive.line(0.1)(net(x).square().sum())
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_gradients_of_rank_one_are(net):
    assert set(ENERGIES) <= set(PRIORS)
    for name in ENERGIES:
        naive = NaiveEnergy(name, named_priors(name, strength=1.0, num_data=1), net, torch.float64)
        ranks = {int(torch.linalg.matrix_rank(G.flatten(1))) for G in naive.gradients().values()}
        assert (ranks == {1}) == (name in TOP_ALONE)

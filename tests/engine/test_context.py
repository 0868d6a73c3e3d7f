"""Gradients of an energy beside those of a loss that a `GradScaler` multiplies."""

from __future__ import annotations

import copy
import gc
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bayes_htr as htr
from bayes_htr.engine.context import factor_of

PRIORS = htr.Priors(htr.MaxEigenvalue(htr.Frechet(2.0, 1.0)))
X, Y = torch.randn(20, 6), torch.arange(20) % 3


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


@pytest.fixture(autouse=True)
def no_scalers_of_other_tests():
    gc.collect()


def new_scaler():
    return torch.amp.GradScaler("cpu", init_scale=1024.0)


def trained(net, add_energy):
    """The weights after some steps; `add_energy` computes the gradients of a step."""
    net = copy.deepcopy(net)
    energy = htr.bind(PRIORS, net, refresh=htr.Exact())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    scaler = new_scaler()
    for _ in range(10):
        optimizer.zero_grad()
        add_energy(F.cross_entropy(net(X), Y), energy, scaler, optimizer)
        scaler.step(optimizer)
        scaler.update()
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def in_the_loss(loss, energy, scaler, optimizer):
    scaler.scale(loss + energy() / 20).backward()


def with_the_scaler(loss, energy, scaler, optimizer):
    scaler.scale(loss).backward()
    energy.backward(1 / 20, scaler=scaler)


def after_unscaling(loss, energy, scaler, optimizer):
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    energy.backward(1 / 20)


def without_a_word(loss, energy, scaler, optimizer):
    scaler.scale(loss).backward()
    energy.backward(1 / 20)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("how", [with_the_scaler, after_unscaling])
def test_the_prior_has_the_effect_that_it_has_in_the_loss(net, how):
    expected = trained(net, in_the_loss)
    torch.testing.assert_close(trained(net, how), expected, rtol=1e-4, atol=1e-6)


def test_a_scaler_that_is_left_out_is_told_of_once(net):
    with pytest.warns(UserWarning, match=r"scale 1024.*Pass scaler=scaler") as caught:
        trained(net, without_a_word)
    (warning,) = [w for w in caught if "GradScaler" in str(w.message)]
    assert warning.filename == __file__


def test_a_scaler_of_another_network_is_no_matter_if_that_is_said(net):
    scaler = new_scaler()
    scaler.scale(F.cross_entropy(net(X), Y)).backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        htr.bind(PRIORS, net).backward(0.1, scaler=None)
        htr.fit(
            htr.BayesianClassifier(net, PRIORS), (X, Y), method=htr.MAP(), epochs=1, progress=False
        )


def test_a_scaler_that_is_not_enabled_scales_nothing(net):
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    assert factor_of(scaler) == 1.0
    assert torch.equal(
        htr.bind(PRIORS, net).backward(scaler=scaler), htr.bind(PRIORS, net).backward(scaler=None)
    )


def test_gradients_that_are_divided_already_are_refused(net):
    scaler, optimizer = new_scaler(), torch.optim.SGD(net.parameters(), lr=0.1)
    scaler.scale(F.cross_entropy(net(X), Y)).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="before it, or pass scaler=None"):
        htr.bind(PRIORS, net).backward(0.1, scaler=scaler)


def test_what_is_no_scaler_is_refused(net):
    with pytest.raises(TypeError, match=r"scaler=1024.0 must be"):
        htr.bind(PRIORS, net).backward(0.1, scaler=1024.0)

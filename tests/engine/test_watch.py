"""What becomes of a network after its priors were bound is noticed."""

from __future__ import annotations

import copy

import pytest
from torch import nn

import bayes_htr as htr

SOFT = htr.ESD(htr.Lomax(2.0, 1.0))


def test_a_parameter_that_comes_with_a_prior_is_an_error():
    net = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    everywhere, named = (htr.bind(htr.Priors(p), net) for p in (SOFT, {"0.weight": SOFT}))
    everywhere()
    net.append(nn.ReLU())
    everywhere()
    net.append(nn.Linear(3, 2))
    for use in (everywhere, everywhere.backward, everywhere.terms):
        with pytest.raises(htr.PriorError, match=r"^3\.weight came to the network .* bind"):
            use()
    named()
    net[0] = nn.utils.parametrizations.weight_norm(net[0])
    with pytest.raises(htr.PriorError, match=r"0\.weight' any more; bind"):
        named()


def test_a_parameter_of_a_module_in_the_place_of_another_is_noticed_soon():
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU())
    energy = htr.bind(htr.Priors(SOFT), net)
    energy()
    net[1] = nn.Linear(4, 3)
    with pytest.raises(htr.PriorError, match=r"^1\.weight came to the network"):
        for _ in range(16):
            energy()
    copied = copy.deepcopy(htr.bind(htr.Priors(SOFT), net))
    copied()
    copied.net.append(nn.Linear(3, 3))
    with pytest.raises(htr.PriorError, match=r"^2\.weight came to the network"):
        copied()


def test_what_is_frozen_after_bind_is_a_constant_until_it_is_trainable_again():
    layer = nn.Linear(12, 9)
    net = nn.Sequential(layer, nn.Linear(9, 3))
    energy = htr.bind(htr.Priors(SOFT), net, refresh=htr.Exact())
    both = energy().item()
    layer.weight.requires_grad_(False)
    assert set(energy.terms()) == {"1.weight"}
    energy().backward()
    assert layer.weight.grad is None
    layer.weight.requires_grad_(True)
    assert energy().item() == pytest.approx(both)
    for p in net.parameters():
        p.requires_grad_(False)
    assert energy().item() == 0 and not energy().requires_grad


def test_a_parametrization_that_is_removed_leaves_the_weight_scored():
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 4)))
    energy = htr.bind(htr.Priors(SOFT), net, refresh=htr.Exact())
    before = energy().item()
    nn.utils.parametrize.remove_parametrizations(net[0], "weight")
    assert energy().item() == pytest.approx(before)
    energy().backward()
    assert net[0].weight.grad.norm() > 0

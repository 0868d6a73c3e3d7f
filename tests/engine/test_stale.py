"""What must not be taken for the present: of other shapes, policies, calls and matrices."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import nn

import bayes_htr as htr
from bayes_htr.engine import matrix_energy

TOP = htr.penalties.spectral_norm()
SOFT = htr.ESD(htr.Lomax(2.0, 1.0))


@pytest.fixture
def layer():
    return nn.Linear(12, 9)


def move(layer, size):
    with torch.no_grad():
        W = layer.weight
        W += size * W.norm() / W.numel() ** 0.5 * torch.randn_like(W)


def gradient(energy):
    return torch.autograd.grad(energy(), energy.net.weight)[0]


def exact_value(energy):
    return htr.bind(energy.priors, energy.net, refresh=htr.Exact())().item()


def test_a_sum_of_terms_is_of_their_present_values(layer):
    energy = htr.bind(htr.Priors(SOFT), layer)
    with torch.no_grad():
        terms = energy.terms()
        before = energy.total(terms).item()
        terms["weight"].mul_(2)
        assert energy.total(terms).item() == 2 * before


@pytest.mark.parametrize("prior", [SOFT, TOP & htr.ESD(htr.Exponential(1.0))])
def test_after_a_refresh_that_failed_the_next_call_refreshes(layer, prior):
    energy = htr.bind(htr.Priors(prior), layer, refresh=htr.Drift(0.1, check_every=2))
    energy()
    with torch.no_grad():
        before = layer.weight.clone()
        layer.weight[0, 0] = torch.nan
    with pytest.raises(htr.SpectrumError, match="not finite"):
        energy()
    with torch.no_grad():
        layer.weight.copy_(before)
    expected = gradient(htr.bind(energy.priors, layer, refresh=htr.Exact()))
    torch.testing.assert_close(gradient(energy), expected)
    assert energy.refreshes == {"weight": 2}


def test_a_parameter_of_another_shape_has_the_spectrum_of_that_shape(layer):
    prior = htr.ESD(htr.Lomax(tail_index=htr.Gamma(2.0, 3.0)))
    prior &= htr.MaxEigenvalue(htr.Frechet(htr.Gamma(2.0, 1.0)))
    energy = htr.bind(htr.Priors(prior), layer, refresh=htr.Every(100))
    energy()
    layer.weight = nn.Parameter(torch.randn(4, 5))
    exact = htr.bind(energy.priors, layer, refresh=htr.Exact())().item()
    assert [energy().item() for _ in range(2)] == pytest.approx([exact] * 2)


def test_a_parameter_that_is_replaced_is_scored_anew_at_once(layer):
    energy = htr.bind(htr.Priors(SOFT), layer, refresh=htr.Every(100))
    energy()
    with torch.no_grad():
        layer.weight = nn.Parameter(3 * layer.weight)
    assert energy().item() == pytest.approx(exact_value(energy))
    assert gradient(energy).norm() > 0
    assert energy.refreshes == {"weight": 2}
    with torch.no_grad():
        layer.weight.mul_(1.01)
    energy()
    assert energy.refreshes == {"weight": 2}, "changed in place it is the same parameter"


@pytest.mark.parametrize("scale", [1e-3, 0.0, 30.0])
def test_a_matrix_that_has_changed_altogether_is_not_followed(scale):
    layer = nn.Linear(120, 90, bias=False)
    energy = htr.bind(htr.Priors(TOP), layer)
    for _ in range(20):
        energy()
    before = energy.refreshes["weight"]
    with torch.no_grad():
        layer.weight.copy_(scale * torch.randn_like(layer.weight))
    for _ in range(16):
        held = energy().item()
        if energy.refreshes["weight"] > before:
            break
    assert held == pytest.approx(exact_value(energy), rel=1e-4)


def test_a_zero_matrix_stays_held():
    layer = nn.Linear(12, 9, bias=False)
    nn.init.zeros_(layer.weight)
    energy = htr.bind(htr.Priors(TOP), layer)
    assert [energy().item() for _ in range(12)] == [0.0] * 12
    assert energy.refreshes == {"weight": 1}
    nn.init.orthogonal_(layer.weight)
    slopes = gradient(energy)  # seen at once
    assert energy().item() == pytest.approx(exact_value(energy), rel=1e-4)
    assert torch.isfinite(slopes).all()


def test_what_a_failed_call_has_followed_is_not_taken_for_the_present_matrix(layer):
    priors = htr.Priors(TOP).scheduled(htr.ExpDecay(0.5))
    energy = htr.bind(priors, layer)
    energy(0)
    move(layer, 0.5)
    with (
        mock.patch.object(matrix_energy, "evaluate", side_effect=MemoryError),
        pytest.raises(MemoryError),
    ):
        energy(0)
    move(layer, 2.0)
    expected = htr.bind(priors, layer, refresh=htr.Exact())(1).item()
    assert energy(1).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("before", "after"),
    [(htr.Drift(0.1), htr.Every(100)), (htr.Every(100), htr.Drift(0.1, check_every=1))],
    ids=repr,
)
@pytest.mark.parametrize("prior", [TOP, SOFT], ids=repr)
def test_what_was_held_under_another_policy_is_left_out(prior, before, after, layer):
    nn.init.orthogonal_(layer.weight)  # ties: under drift the gradient is a mean of pairs
    energy = htr.bind(htr.Priors(prior), layer, refresh=before)
    for _ in range(6):
        energy()
    for moved in (0.0, 0.5):
        move(layer, moved)
        other = htr.bind(energy.priors, layer, refresh=after)
        other.load_state_dict(energy.state_dict())
        assert torch.isfinite(gradient(other)).all()
        assert other().item() == pytest.approx(exact_value(other), rel=1e-4)


@pytest.mark.parametrize("refresh", [htr.Every(100), htr.Drift(0.5)], ids=repr)
def test_entries_count_at_new_values_of_hyperparameters(layer, refresh):
    """The energy between refreshes is that of the matrix at the last one, entries included."""
    prior = htr.ESD(htr.Lomax(2.5, htr.Gamma(2.0, 3.0))) & htr.Entries(htr.Normal(0.0, 1.0))
    energy = htr.bind(htr.Priors({"weight": prior}), layer, refresh=refresh)
    exact = htr.bind(energy.priors, layer, refresh=htr.Exact())
    assert energy().item() == pytest.approx(exact().item())
    with torch.no_grad():
        for bound in (energy, exact):
            for u in bound.latents().values():
                u += 0.3
    expected = exact().item()
    assert energy().item() == pytest.approx(expected)
    move(layer, 1e-3)
    assert energy().item() == pytest.approx(expected)
    state = energy.state_dict()
    cached = energy._matrices[0].cache.evaluation.parts
    del cached["entries"]  # as in states of earlier versions
    earlier = htr.bind(energy.priors, layer, refresh=refresh)
    for given, value in ((energy.state_dict(), exact().item()), (state, expected)):
        earlier.load_state_dict(given)
        assert earlier().item() == pytest.approx(value)

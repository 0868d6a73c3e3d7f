import math

import pytest
import torch
from torch import nn

import bayes_htr as htr
from bayes_htr.engine.pull import pull_of
from bayes_htr.experiments import build_network


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))


@pytest.mark.parametrize(
    ("prior", "along"),
    [
        (htr.penalties.weight_decay(), lambda s: s * s),
        (htr.penalties.nuclear_norm(), lambda s: s),
        (htr.ESD(htr.Lomax(2.0, 0.3)), lambda s: 4 * s * s / (0.3 + s * s)),
        (htr.penalties.spectral_norm(), lambda s: s.square() * (s == s[0])),
        (
            htr.MaxEigenvalue(htr.Frechet(2.0, 1.0)),
            lambda s: (s == s[0]) * (6 - 4 * s[0] ** -4).abs(),
        ),
    ],
    ids=["weight_decay", "nuclear_norm", "lomax", "spectral_norm", "frechet"],
)
def test_the_pull_is_that_of_the_formula(prior, along):
    net = network().double()
    expected = sum(float(along(torch.linalg.svdvals(net[i].weight.detach())).sum()) for i in (0, 2))
    assert pull_of(htr.Priors(prior), net) == pytest.approx(expected, rel=1e-6)


def test_strength_and_vectors_count():
    net = network()
    priors = htr.Priors({"0.bias": htr.Entries(htr.Normal(0.0, 0.5))})
    expected = 4 * float(net[0].bias.detach().square().sum())
    assert pull_of(priors, net) == pytest.approx(expected, rel=1e-5)
    assert pull_of(priors.scaled(3.0), net) == pytest.approx(3 * expected, rel=1e-5)


def test_the_unit_of_a_penalty_does_not_matter():
    net = network()
    one, ten = (htr.Priors(htr.ESD(htr.Exponential(rate))) for rate in (1.0, 10.0))
    first, second = (htr.starting_strength(p, net, num_data=500) for p in (one, ten))
    assert first == pytest.approx(10 * second, rel=0.06)  # both are rounded to two digits


def test_the_strength_by_sizes_and_method():
    net, priors = network(), htr.Priors(htr.penalties.weight_decay())
    strength = htr.starting_strength(priors, net, num_data=400)
    assert strength == pytest.approx(35 * 20 / pull_of(priors, net), rel=0.05)
    assert htr.starting_strength(priors, net, num_data=1600) == pytest.approx(2 * strength, rel=0.1)
    posterior = htr.starting_strength(priors, net, num_data=400, posterior=True)
    assert posterior == pytest.approx(strength * 8 / 35, rel=0.1)


def test_the_network_is_left_as_it_was():
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    htr.starting_strength(htr.Priors(htr.ESD(htr.Lomax(2.0))), net, num_data=10)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_scheduled_hierarchical_and_stacked_priors():
    net = nn.MultiheadAttention(4, 2)
    law = htr.Frechet(2.0, htr.LogNormal(0.0, 1.0))
    priors = htr.Priors(htr.MaxEigenvalue(law)).scheduled(htr.ExpDecay(1.0, period=1))
    assert pull_of(priors, net) > 0


def test_frozen_and_flat_parameters_have_no_pull():
    net = network()
    net[0].weight.requires_grad_(False)
    priors = htr.Priors(htr.penalties.weight_decay())
    expected = float(net[2].weight.detach().square().sum())
    assert pull_of(priors, net) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(htr.PriorError, match=r"pull of 0 .* start=1.0"):
        htr.starting_strength(htr.Priors({}), net, num_data=10)


def test_bad_numbers_of_examples_are_named():
    priors = htr.Priors(htr.penalties.weight_decay())
    for num_data in (0, -3, 2.5, True):
        with pytest.raises(ValueError, match=f"num_data={num_data!r}"):
            htr.starting_strength(priors, network(), num_data=num_data)


STUDY = {
    # cell: the number of training images, and the strengths between which the study's trials score
    # within 0.003 (relative to a Brier score of 0.18) of the best one
    ("mlp", 1, 9000, "lomax"): (0.9, 9.0),
    ("mlp", 1, 2000, "lomax"): (0.6, 6.0),
    ("lenet5", 1, 7000, "lomax"): (2.1, 21.0),
    ("lenet5", 3, 9000, "lomax"): (27.0, 27.0),
    ("mlp", 1, 7000, "frechet"): (210.0, 210.0),
    ("mlp", 1, 9000, "frechet"): (9.0, 270.0),
    ("mlp", 1, 2000, "frechet"): (60.0, 60.0),
    ("lenet5", 1, 7000, "frechet"): (7.0, 700.0),
}


@pytest.mark.parametrize("cell", STUDY, ids=str)
def test_within_a_factor_of_three_of_strengths_that_score_like_the_best(cell):
    kind, channels, num_data, name = cell
    size = 32 if channels == 3 else 28
    net = build_network(kind, (channels, size, size), 10)
    law = {"lomax": htr.ESD(htr.Lomax(2.0, 1.0)), "frechet": htr.MaxEigenvalue(htr.Frechet(2.0))}
    strength = htr.starting_strength(htr.Priors(law[name]), net, num_data=num_data)
    low, high = STUDY[cell]
    assert low / math.sqrt(10) <= strength <= high * math.sqrt(10)


def test_declared_parts_and_computed_weights_are_what_counts():
    net = nn.Sequential(nn.Linear(6, 8))
    law = htr.penalties.spectral_norm()
    parts = {"0.weight": htr.MatrixLayout(parts=["a", "b"])}
    W = net[0].weight.detach()
    expected = sum(float(torch.linalg.matrix_norm(half, 2)) ** 2 for half in W.split(4))
    assert pull_of(htr.Priors(law, matrices=parts), net) == pytest.approx(expected, rel=1e-4)
    whole = pull_of(htr.Priors(law), net)
    nn.utils.parametrizations.weight_norm(net[0])
    assert pull_of(htr.Priors(law), net) == pytest.approx(whole, rel=1e-4)

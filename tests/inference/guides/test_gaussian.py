"""The parts of the evidence lower bound under normal laws over the weights."""

from __future__ import annotations

import copy
import json
import math
import pickle

import pytest
import torch
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal, Normal, kl_divergence

import bayes_htr as htr
from bayes_htr.errors import CheckpointError
from bayes_htr.inference.guides import GUIDES
from bayes_htr.inference.guides.gaussian import LowRank, MeanField

NORMAL = htr.Priors({"*": htr.Entries(htr.Normal(0.1, 0.5))})
MIXED = htr.Priors(
    {
        "fc1.weight": htr.ESD(htr.Lomax(2.5, 0.7)) & htr.Entries(htr.Normal(0.0, 0.5)),
        "fc2.weight": htr.Entries(htr.Normal(0.0, htr.HalfCauchy(1.0))),
        "*.bias": htr.Entries(htr.Normal(0.0, 1.0)),
    }
)
SPECTRAL = htr.Priors(htr.ESD(htr.Lomax(tail_index=htr.Gamma(9.0, 3.0))))


def weights_of(guide, values):
    return torch.cat([values[name].flatten() for name in guide.random])


def law_of(guide):
    """The law of all random weights, by Torch."""
    location = weights_of(guide, guide.centre())
    if isinstance(guide, MeanField):
        scales = torch.cat([s.detach().flatten() for s in guide.log_scales]).exp()
        return MultivariateNormal(location, torch.diag(scales**2))
    blocks = [
        F.detach().T @ F.detach() + torch.diag((2 * s.detach()).exp())
        for F, s in zip(guide.factors, guide.log_scales, strict=True)
    ]
    return MultivariateNormal(location, torch.block_diag(*blocks))


def test_divergence_is_that_of_torch(make_guide, kind):
    _, guide = make_guide(kind, NORMAL)
    law = law_of(guide)
    n = len(law.loc)
    prior = MultivariateNormal(law.loc.new_full((n,), 0.1), 0.25 * torch.eye(n).double())
    expected = kl_divergence(law, prior)
    for _ in range(2):  # whatever the sample
        found = guide.kl(guide.rsample())
        torch.testing.assert_close(found.detach(), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("strength", [0.3, 5.0])
def test_strength_is_a_power_of_the_law(make_guide, kind, strength):
    """`KL` of `p^s` is `-entropy - s E log p`: exactly `s` times the one, and `s - 1` entropies."""
    _, one = make_guide(kind, NORMAL)
    _, other = make_guide(kind, NORMAL.scaled(strength))
    entropy = law_of(one).entropy()
    expected = strength * (one.kl(one.rsample()) + entropy) - entropy
    found = other.kl(other.rsample())
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=1e-10, atol=0)


def test_divergence_grows_with_the_number_of_weights():
    """A sum over weights, and no mean inside of layers."""
    kls = []
    for width in (8, 80):
        net = torch.nn.Linear(width, 7, bias=False)
        torch.nn.init.zeros_(net.weight)
        model = htr.BayesianClassifier(net, htr.Priors(htr.Entries(htr.Normal(0.0, 1.0))))
        guide = MeanField(model.densities(), init_scale=0.1)
        kls.append(guide.kl(guide.rsample()).item())
    each = kl_divergence(Normal(0.0, 0.1), Normal(0.0, 1.0)).item()
    assert kls == pytest.approx([7 * 8 * each, 7 * 80 * each], rel=1e-6)


@pytest.mark.parametrize("priors", [NORMAL, MIXED, SPECTRAL], ids=["normal", "mixed", "spectral"])
def test_divergence_against_monte_carlo(make_guide, kind, priors):
    """The mean of its estimates is that of `log q - log p`, with the model's own density."""
    model, guide = make_guide(kind, priors)
    law = law_of(guide)
    placed = model.densities().trainable
    torch.manual_seed(0)
    found, plain = [], []
    with torch.no_grad():
        hyper = guide.hyper.kl()
        for _ in range(500):
            sample = guide.rsample()
            found.append(guide.kl(sample))
            log_p = sum(p.log_density(sample[p.name], sample) for p in placed)
            plain.append(law.log_prob(weights_of(guide, sample)) - log_p + hyper)
    found, plain = torch.stack(found), torch.stack(plain)
    error = ((found.var() + plain.var()) / len(found)).sqrt().item()
    assert found.mean().item() == pytest.approx(plain.mean().item(), abs=4 * error)


def test_draws_have_the_stated_law(make_guide, kind):
    _, guide = make_guide(kind, NORMAL)
    law = law_of(guide)
    draws = torch.stack([weights_of(guide, draw) for draw in guide.draws(2500, seed=1)])
    scale = law.covariance_matrix.diagonal().sqrt()
    z = (draws.mean(0) - law.loc) / scale * math.sqrt(2500)
    assert z.abs().max() < 4.5
    off = (draws.T.cov() - law.covariance_matrix) / torch.outer(scale, scale)
    assert off.abs().max() < 5 * math.sqrt(2 / 2500)
    torch.manual_seed(0)
    rdraws = torch.stack([weights_of(guide, guide.rsample()).detach() for _ in range(2500)])
    off = (rdraws.T.cov() - law.covariance_matrix) / torch.outer(scale, scale)
    assert off.abs().max() < 5 * math.sqrt(2 / 2500)


def test_entropy_of_the_low_rank_law(make_guide):
    _, guide = make_guide(LowRank, NORMAL)
    entropies = [
        LowRankMultivariateNormal(torch.zeros(len(s)).double(), F.T, (2 * s).exp()).entropy()
        for F, s in zip(guide.factors, guide.log_scales, strict=True)
    ]
    assert [len(s) for s in guide.log_scales] == [25, 18]  # a layer's weight and bias together
    torch.testing.assert_close(guide._entropy(), sum(entropies), rtol=1e-12, atol=0)


def test_the_start(make_guide, kind):
    """Around the network's weights, with the standard deviation that was asked for."""
    model, guide = make_guide(kind, MIXED, shaken=False)
    for name, p in model.net.named_parameters():
        assert torch.equal(guide.centre()[name], p.detach())
    scale = law_of(guide).covariance_matrix.diagonal().sqrt()
    assert scale.mean().item() == pytest.approx(0.3, rel=0.05)


def test_flat_parameters_are_points(make_guide, kind):
    priors = htr.Priors({"fc1.weight": htr.Entries(htr.Normal(0.0, 1.0))})
    _, guide = make_guide(kind, priors)
    first, second = guide.draws(2, seed=0)
    for name in first:
        assert torch.equal(first[name], second[name]) == (name != "fc1.weight"), name
    _, plain = make_guide(kind, htr.Priors({}))
    assert plain.kl(plain.rsample()).item() == 0.0
    assert len(list(plain.parameters())) == 4


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_gradient_of_the_divergence(make_guide, kind, strength):
    """Every parameter of a random law has one, and a flat one has none."""
    priors = htr.Priors({"fc*.weight": htr.ESD(htr.Lomax(tail_index=htr.Gamma(9.0, 3.0)))})
    _, guide = make_guide(kind, priors.scaled(strength))
    kl = guide.kl(guide.rsample())
    assert kl.requires_grad == (strength > 0)
    if strength:
        kl.backward()
        moved = {n for n, p in guide.named_parameters() if p.grad is not None and p.grad.any()}
        flat = {f"locations.{i}" for i, n in enumerate(guide.names) if n.endswith("bias")}
        assert moved == {n for n, _ in guide.named_parameters()} - flat


@pytest.mark.parametrize("priors", [NORMAL, MIXED, SPECTRAL], ids=["normal", "mixed", "spectral"])
def test_saved_and_rebuilt(make_guide, kind, priors):
    model, guide = make_guide(kind, priors)
    settings = json.loads(json.dumps(guide.settings()))
    state = torch.get_rng_state()
    again = GUIDES[guide.kind].from_state(model, settings, guide.state_dict())
    for other in (again, copy.deepcopy(guide), pickle.loads(pickle.dumps(guide))):
        for a, b in zip(guide.draws(2, seed=4), other.draws(2, seed=4), strict=True):
            assert a.keys() == b.keys()
            assert all(torch.equal(a[name], b[name]) for name in a)
        torch.manual_seed(1)
        expected = guide.kl(guide.rsample())
        torch.manual_seed(1)
        assert torch.equal(other.kl(other.rsample()), expected)
    torch.set_rng_state(state)
    with pytest.raises(CheckpointError, match=guide.kind):
        type(guide).from_state(model, settings | {"names": ["fc9.weight"]}, guide.state_dict())


def test_draws_leave_the_global_generator_alone(make_guide, kind):
    _, guide = make_guide(kind, SPECTRAL)
    state = torch.get_rng_state()
    list(guide.draws(2, seed=0))
    guide.centre()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_schedule_is_followed(make_guide, kind):
    priors = NORMAL.scheduled(htr.PowerDecay(1.0, period=1, cutoff=0.3))
    model, guide = make_guide(kind, priors)
    _, half = make_guide(kind, NORMAL.scaled(0.5))
    guide.set_epoch(model.densities(2), 2)
    found, expected = guide.kl(guide.rsample()), half.kl(half.rsample())
    torch.testing.assert_close(found, expected)


def test_matrices_of_one_parameter():
    """Query, key and value, each with its own hyperparameter."""
    net = torch.nn.MultiheadAttention(4, 1, bias=False).double()
    prior = htr.Entries(htr.Normal(0.0, htr.LogNormal(0.0, 0.1)))
    model = htr.BayesianClassifier(net, htr.Priors({"in_proj_weight": prior}))
    guide = MeanField(model.densities(), init_scale=0.2)
    sample = guide.rsample()
    W, total = net.in_proj_weight.detach(), guide.hyper.kl()
    for part, name in zip(W.split(4), "qkv", strict=True):
        scale = sample[f"in_proj_weight[{name}]:Entries.scale"]
        law = Normal(part, torch.full_like(part, 0.2))
        total = total + kl_divergence(law, Normal(torch.zeros(()).double(), scale)).sum()
    torch.testing.assert_close(guide.kl(sample), total)


@pytest.mark.parametrize("kind", [MeanField, LowRank], ids=lambda kind: kind.kind)
def test_under_a_spectral_prior_it_starts_as_wide_as_the_weights(make_guide, kind):
    """From a narrow start it would shrink to zero."""
    priors = {"fc1.weight": htr.ESD(htr.Lomax(2.5)), "*": htr.Entries(htr.Normal(0.0, 1.0))}
    model = make_guide(kind, htr.Priors(priors))[0]
    guide = kind(model.densities(0))
    spread = {n: v.detach().mean().sqrt().item() for n, v in guide._variances().items()}
    rms = model.net.fc1.weight.square().mean().sqrt().item()
    assert spread["fc1.weight"] == pytest.approx(rms, rel=0.1)
    assert spread["fc2.weight"] == pytest.approx(0.01, rel=0.2)

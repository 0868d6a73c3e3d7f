"""Automatic guides of Pyro over the weights."""

from __future__ import annotations

import copy
import json
import pickle

import pyro
import pytest
import torch
from pyro.infer import autoguide
from torch.distributions import Normal, kl_divergence

import bayes_htr as htr
from bayes_htr.errors import CheckpointError
from bayes_htr.inference.guides.pyro_guide import PyroGuide, is_pyro_guide

PRIORS = htr.Priors({"*": htr.Entries(htr.Normal(0.0, htr.LogNormal(0.0, 0.5)))})
CLASSES = [
    autoguide.AutoDelta,
    autoguide.AutoNormal,
    autoguide.AutoDiagonalNormal,
    autoguide.AutoMultivariateNormal,
    autoguide.AutoLowRankMultivariateNormal,
]


@pytest.fixture(params=CLASSES, ids=lambda c: c.__name__)
def guide(request):
    return build(request.param)


def build(cls, priors=PRIORS):
    torch.manual_seed(0)
    net = torch.nn.Linear(4, 3).double()
    model = htr.BayesianClassifier(net, priors)
    return PyroGuide(cls, model.densities(), init_scale=0.2)


def test_parameters_exist_at_once_and_nowhere_else(guide):
    assert list(guide.parameters())
    guide.rsample()
    guide.centre()
    assert not list(pyro.get_param_store().keys())


def test_it_starts_at_the_network_and_does_not_share_its_tensors(guide):
    torch.manual_seed(0)
    net = torch.nn.Linear(4, 3).double()
    for name, value in guide.centre().items():
        if name in ("weight", "bias"):
            torch.testing.assert_close(value, net.get_parameter(name).detach())
    before = guide.centre()
    with torch.no_grad():
        for p in guide.parameters():
            p += 1.0
    assert all(not torch.equal(before[n], v) for n, v in guide.centre().items())


def test_divergence_is_the_log_ratio_of_densities():
    """The mean of its estimates is the closed form, for numbers."""
    guide = build(autoguide.AutoNormal, htr.Priors({"*": htr.Entries(htr.Normal(0.1, 0.5))}))
    centre = guide.centre()
    exact = sum(
        kl_divergence(
            Normal(centre[n], torch.full_like(centre[n], 0.2)),
            Normal(torch.full_like(centre[n], 0.1), torch.full_like(centre[n], 0.5)),
        ).sum()
        for n in ("weight", "bias")
    )
    torch.manual_seed(1)
    found = torch.stack([guide.kl(guide.rsample()).detach() for _ in range(800)])
    error = found.std().item() / 800**0.5
    assert found.mean().item() == pytest.approx(exact.item(), abs=4 * error)


def test_divergence_needs_its_own_draw(guide):
    with pytest.raises(ValueError, match="rsample"):
        guide.kl(dict(guide.rsample()))


def test_saved_and_rebuilt(guide):
    torch.manual_seed(0)
    model = htr.BayesianClassifier(torch.nn.Linear(4, 3).double(), PRIORS)
    settings = json.loads(json.dumps(guide.settings()))
    with torch.no_grad():
        for p in guide.parameters():
            p += 0.1
    again = PyroGuide.from_state(model, settings, guide.state_dict())
    for other in (again, copy.deepcopy(guide), pickle.loads(pickle.dumps(guide)), guide):
        for a, b in zip(guide.draws(2, seed=4), other.draws(2, seed=4), strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a)
        torch.manual_seed(1)
        expected = guide.kl(guide.rsample())
        torch.manual_seed(1)
        assert torch.equal(other.kl(other.rsample()), expected)


@pytest.mark.parametrize("name", ["nn", "AutoNothing", "init_to_median", "__builtins__"])
def test_only_guides_of_pyro_are_built_by_name(name):
    model = htr.BayesianClassifier(torch.nn.Linear(4, 3), PRIORS)
    settings = {"guide": name, "names": ["weight", "bias"], "init_scale": 0.1}
    with pytest.raises(CheckpointError, match="is none of AutoDelta, AutoNormal"):
        PyroGuide.from_state(model, settings, {})


def test_which_classes_are_taken():
    class Own(autoguide.AutoNormal):
        pass

    assert is_pyro_guide(autoguide.AutoNormal)
    others = (Own, torch.nn.Linear, "AutoNormal", None, autoguide.AutoIAFNormal)
    assert not any(is_pyro_guide(g) for g in others)


@pytest.mark.parametrize(
    "name", ["AutoStructured", "AutoIAFNormal", "AutoGuideList", "AutoLaplaceApproximation"]
)
def test_the_classes_that_work_are_named_instead_of_others(name):
    with pytest.raises(ValueError, match=rf"{name}.*must be one of .*AutoMultivariateNormal"):
        htr.SVI(guide=getattr(autoguide, name))

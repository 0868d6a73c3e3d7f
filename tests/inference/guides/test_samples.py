from __future__ import annotations

import copy

import pytest
import torch

import bayes_htr as htr
from bayes_htr.engine import bind
from bayes_htr.inference.guides import GUIDES, PointMass, Samples

PRIORS = htr.Priors(htr.ESD(htr.Lomax(tail_index=htr.Joint(htr.Gamma(9.0, 3.0)))))
TAIL = "weight:ESD.tail_index"


@pytest.fixture
def model():
    return htr.BayesianClassifier(torch.nn.Linear(6, 3, bias=False), PRIORS)


@pytest.fixture
def latents(model):
    return bind(model.priors, model.net).hyperpriors


def test_all_draws_are_one_and_have_no_weights(latents):
    guide = PointMass({TAIL: torch.tensor(0.5)}, latents)
    expected = {TAIL: pytest.approx(torch.tensor(0.5).exp().item())}
    for draws in (guide.draws(20, seed=1), guide.spectrum_draws(20, seed=1)):
        (draw,) = draws
        assert {name: float(value) for name, value in draw.items()} == expected
    assert {n: float(v) for n, v in guide.draw(torch.Generator()).items()} == expected
    assert {n: v.dtype for n, v in guide.centre().items()} == {TAIL: torch.float64}


def test_coordinates_are_those_that_were_given(latents):
    u = torch.tensor(1 / 3)
    guide = PointMass({TAIL: u, "fc9.weight:ESD.scale": torch.tensor(1.0)}, latents)
    assert torch.equal(guide.coordinates(latents)[TAIL], u)  # without a detour over the value
    assert set(guide.coordinates(latents)) == {TAIL}
    guide.coordinates(latents)[TAIL].zero_()
    assert torch.equal(guide.coordinates(latents)[TAIL], u)
    assert PointMass({}, latents).centre() == {} == PointMass({}, latents).coordinates(latents)


def test_a_copy_is_the_same(latents):
    guide = PointMass({TAIL: torch.tensor(0.25)}, latents)
    assert copy.deepcopy(guide).centre() == guide.centre()
    assert "point_mass" not in GUIDES  # run folders have no file of it


def test_other_guides_have_coordinates_of_their_centre(latents):
    guide = Samples({TAIL: torch.tensor([1.0, 3.0]), "weight": torch.zeros(2, 3, 6)})
    coordinates = guide.coordinates(latents)
    assert set(coordinates) == {TAIL}
    assert float(coordinates[TAIL]) == pytest.approx(torch.tensor(2.0).log().item())


def test_a_posterior_of_map_is_a_point_mass(model):
    posterior = htr.Posterior(model.net, PRIORS, hyperparameters={TAIL: torch.tensor(0.5)})
    assert posterior.guide is None
    assert posterior.hyperparameters() == {TAIL: pytest.approx(torch.tensor(0.5).exp().item())}
    assert torch.equal(posterior.unconstrained_hyperparameters()[TAIL], torch.tensor(0.5))
    assert htr.Posterior(model.net, PRIORS).hyperparameters() == {}

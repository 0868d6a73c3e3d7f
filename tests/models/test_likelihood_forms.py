"""A likelihood in the configuration of a run, and back; those of earlier versions too."""

from __future__ import annotations

import json

import pyro.distributions as dist
import pytest

import bayes_htr as htr
from bayes_htr.models.likelihood_forms import as_likelihood, from_config, to_config


def poisson(outputs):
    return dist.Poisson(outputs.exp())


@pytest.mark.parametrize(
    "given",
    [
        None,
        htr.Categorical((1.0, 2.0), 0.1),
        htr.Categorical(ignore_index=-100, class_dim=1),
        htr.Bernoulli(),
        htr.Normal(scale=0.1),
        htr.Normal(scale=htr.Gamma(2.0, 3.0)),
    ],
    ids=repr,
)
def test_plain_data_and_back(given):
    likelihood = as_likelihood(given)
    config = json.loads(json.dumps(to_config(likelihood)))
    assert from_config({"seed": 3, **config}) == likelihood
    assert from_config(config, given) == likelihood


def test_of_earlier_versions():
    config = {"class_weights": [1.0, 2.0], "seed": 3}
    assert from_config(config) == htr.Categorical((1.0, 2.0))
    assert from_config(config, htr.Categorical((1.0, 2.0))) == htr.Categorical((1.0, 2.0))
    assert from_config({}) == htr.Categorical()
    new = to_config(htr.Categorical((1.0, 2.0), 0.5))
    assert new == {"class_weights": [1.0, 2.0], "label_smoothing": 0.5}


def test_a_callable_is_given_again():
    config = to_config(as_likelihood(poisson))
    with pytest.raises(htr.CheckpointError, match=r"the callable 'poisson'.*likelihood=\.\.\."):
        from_config(config)
    assert from_config(config, poisson) == as_likelihood(poisson)


@pytest.mark.parametrize(
    ("config", "given", "message"),
    [
        ({}, htr.Bernoulli(), r"another likelihood than likelihood=Bernoulli\(\): Categorical"),
        (to_config(htr.Bernoulli()), htr.Normal(scale=1.0), "another likelihood than"),
        ({"likelihood": {"type": "Lomax", "tail_index": 2.0}}, None, "names no likelihood"),
        ({"likelihood": {"type": "os.system"}}, None, "names no likelihood: type='os.system'"),
        ({"likelihood": [1]}, None, "names no likelihood"),
        ({"class_weights": [-1.0]}, None, "names no likelihood"),
    ],
)
def test_configurations_that_do_not_fit(config, given, message):
    with pytest.raises(htr.CheckpointError, match=message):
        from_config(config, given)

"""Every trial of every method of both studies."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bayes_htr.engine import bind
from bayes_htr.experiments import build_network
from benchmarks.study.cells import Base
from benchmarks.study.method import Setting
from benchmarks.study.methods import ENDS, GENERALISATION, MIXTURES, POSTERIOR


@pytest.mark.parametrize("name", GENERALISATION)
def test_every_trial_of_every_method(name):
    """Priors fit the network, and each number of a trial changes what is fitted."""
    net = build_network("mlp", (1, 8, 8), 10, seed=0)
    setting = Setting(net, 100, Base(5, 0.05, "cosine"), dict.fromkeys(ENDS, 20.0))
    method = GENERALISATION[name]
    described = []
    for numbers in method.trials:
        priors = method.priors(numbers, setting)
        bind(priors, net)(epoch=0)
        inference = method.inference(numbers, setting).describe()
        outside = {k: v for k, v in numbers.items() if k in ("dropout", "label_smoothing")}
        described.append(json.dumps([priors.to_dict(), inference, outside]))
    assert len(set(described)) == len(method.trials)
    assert len(method.trials) == (1 if name in ("none", "ensemble") else 6)
    assert method.tuned == (len(method.trials) > 1)


def test_mixtures_are_of_the_methods_of_the_first_study():
    """So that their choices can be taken from it."""
    for name, method in MIXTURES.items():
        is_posterior = name.startswith("svi")
        assert method.members == (4 if is_posterior else 5)
        assert method.priors is GENERALISATION[name].priors
        assert len(method.trials) == len(GENERALISATION[name].trials)
        assert set(method.trials[0]) == set(GENERALISATION[name].trials[0])
        assert is_posterior or method.trials == GENERALISATION[name].trials


def test_posteriors_of_mixtures_are_those_of_the_default_method():
    net = build_network("mlp", (1, 8, 8), 10, seed=0)
    setting = Setting(net, 100, Base(5, 0.05, "cosine"), {})
    method = MIXTURES["svi_lomax"]
    for numbers in method.trials:
        found = method.inference(numbers, setting)
        assert (found.lr, found.noise, found.noisy_directions) == (numbers["lr"], "example", 192)


def test_the_share_of_a_threshold():
    net = build_network("mlp", (1, 8, 8), 10, seed=0)
    setting = Setting(net, 100, Base(5, 0.05, "cosine"), {"stable_rank": 20.0})
    priors = GENERALISATION["stable_rank_above"].priors({"mu": 0.1, "share": 0.5}, setting)
    assert (priors.threshold, priors.strength) == (10.0, 10.0)


def test_decay_is_in_five_steps():
    net = build_network("mlp", (1, 8, 8), 10, seed=0)
    setting = Setting(net, 100, Base(20, 0.05, "cosine"), {})
    for kind, last in (("power", 1 / 4), ("exp", np.exp(-4))):
        priors = GENERALISATION[f"stable_rank_{kind}"].priors({"mu": 0.1}, setting)
        energy = bind(priors, net)
        values = [energy(epoch=epoch).item() for epoch in range(20)]
        steps = [values[i] for i in range(0, 20, 4)]
        assert values == [step for step in steps for _ in range(4)]
        assert steps[-1] == pytest.approx(last * steps[0], rel=1e-4)


@pytest.mark.parametrize("name", POSTERIOR)
def test_every_trial_of_the_study_of_posteriors(name):
    net = build_network("mlp", (1, 8, 8), 10, seed=0)
    setting = Setting(net, 100, Base(20, 0.05, "cosine"), {})
    method = POSTERIOR[name]
    described = []
    for numbers in method.trials:
        priors = method.priors(numbers, setting)
        bind(priors, net)(epoch=0)
        inference = method.inference(numbers, setting).describe()
        described.append(json.dumps([priors.to_dict(), inference]))
        assert numbers["epochs"] > 0
    assert len(set(described)) == len(method.trials)
    assert method.start in (None, "map_frechet")


def test_methods_that_are_tuned_have_the_same_number_of_trials():
    assert len({len(m.trials) for m in POSTERIOR.values() if len(m.trials) > 1}) == 1

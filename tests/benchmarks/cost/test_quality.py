"""Held gradients against exact ones."""

import math

import pytest
import torch

import bayes_htr as htr
from benchmarks.cost.naive import ENERGIES
from benchmarks.cost.quality import (
    WHOLE,
    Note,
    accuracy,
    cosine,
    lowest,
    measure_accuracy,
    measure_quality,
    sampled_steps,
    top_agreement,
)


@pytest.fixture
def test_data(data):
    return data[0][:20], data[1][:20]


def silent(count):
    pass


def test_cosine_by_hand():
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    assert cosine(a, b) == pytest.approx(math.sqrt(0.5))
    assert cosine(a, -3 * a) == pytest.approx(-1)
    assert cosine(a, 0 * b) is None


def test_top_agreement_by_hand():
    W = torch.diag(torch.tensor([2.0, 1.0]))
    u = torch.tensor([[1.0, 0.0]])
    assert top_agreement(-5 * u.T @ u, W) == pytest.approx(1)
    turned = torch.tensor([[math.cos(0.1), math.sin(0.1)]])
    expected = (2 * math.cos(0.1) ** 2 + math.sin(0.1) ** 2) / 2
    assert top_agreement(3 * turned.T @ turned, W) == pytest.approx(expected)
    assert top_agreement(0 * W, W) is None


def test_sampled_steps_are_spread_and_hold_both_ends():
    for steps in (1, 2, 30, 1500):
        at = sampled_steps(steps, 60)
        assert (at[0], at[-1]) == (0, steps - 1)
        assert at == sorted(set(at))
        assert len(at) <= 60
    assert len(sampled_steps(1500, 60)) > 45
    assert sum(step < 100 for step in sampled_steps(1500, 60)) > 15


def test_lowest_by_matrix():
    notes = [Note(0.9, "a", 1, 2.0), Note(0.8, "a", 5, 1.0), Note(1.0, "b", 1, 3.0)]
    assert lowest(notes) == {
        "a": {"value": 0.8, "step": 5, "norm": 1.0, "largest_norm": 2.0},
        "b": {"value": 1.0, "step": 1, "norm": 3.0, "largest_norm": 3.0},
    }
    assert lowest([]) == {}


@pytest.mark.parametrize("prior", ENERGIES)
def test_exact_gradients_agree_with_the_naive_ones(case, prior, test_data):
    found = measure_quality(case(prior), 12, 8, test_data, silent)
    assert set(found["cosine"]) == {"0.weight", "2.weight", WHOLE}
    assert min(note["value"] for note in found["cosine"].values()) > 1 - 1e-5
    energy = found["energy"]
    assert energy["relative"] < 1e-3
    assert energy["relative_disturbed"] < 1e-3
    effect = abs(energy["plain"] - energy["exact"])
    assert effect > 0
    assert energy["of_effect"] == pytest.approx(abs(energy["cached"] - energy["exact"]) / effect)
    assert set(found["top"]) == ({"0.weight", "2.weight"} if prior == "frechet" else set())
    assert all(note["value"] == pytest.approx(1, abs=1e-4) for note in found["top"].values())
    assert found["accuracy"]["cached"] == found["accuracy"]["exact"]


def test_a_gradient_that_is_never_refreshed_falls_behind(case, test_data):
    found = measure_quality(case("frechet", htr.Every(1000), lr=0.3), 40, 8, test_data, silent)
    assert set(found["refreshes"].values()) == {1}
    note = found["cosine"]["0.weight"]
    assert note["value"] < 1 - 1e-4
    assert note["step"] > 0
    assert found["energy"]["relative"] > 0


@pytest.mark.parametrize("entry", ["backward", "loss"])
def test_looking_does_not_change_the_run(case, entry, test_data):
    tiny = case("lomax", htr.Every(3), entry=entry)
    found = measure_quality(tiny, 20, 10, test_data, silent)
    run = tiny.prior_run()
    run.steps(20)
    assert run.prior.energy.refreshes == found["refreshes"]
    end = tiny.naive_energy(run.net, torch.float64)().item()
    assert found["energy"]["cached"] == pytest.approx(end, rel=1e-6)


def test_accuracies(case, test_data):
    tiny = case()
    net = tiny.network()
    labels = net(test_data[0]).argmax(1)
    assert accuracy(net, (test_data[0], labels), tiny) == 1
    assert net.training
    told = []
    found = measure_accuracy(tiny, 25, test_data, told.append)
    assert found["cached"] == found["exact"]
    assert sum(told) == 50

"""Standard errors of scores, against the bootstrap, and how scores print."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
import torch

import bayes_htr as htr
from bayes_htr.posterior.scores import detection_errors, ood_scores, scores, standard_errors


def prediction(n, seed, sharpness=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(n, 3, generator=generator)
    information = torch.rand(n, generator=generator) * 0.1
    labels = torch.distributions.Categorical(logits=logits).probs.multinomial(
        1, generator=generator
    )[:, 0]
    return htr.Prediction((0.6 * logits).log_softmax(1), information), labels


def chosen(whole, indices):
    return htr.Prediction(whole.log_probs[indices], whole.mutual_information[indices])


def test_standard_errors_are_those_of_the_bootstrap():
    whole, y = prediction(400, 0)
    found = standard_errors(whole, y)
    generator = np.random.default_rng(1)
    replicates = []
    for _ in range(400):
        indices = torch.as_tensor(generator.integers(0, 400, 400))
        replicates.append(scores(chosen(whole, indices), y[indices]))
    assert found.keys() == scores(whole, y).keys()
    for name, error in found.items():
        assert error == pytest.approx(np.std([r[name] for r in replicates]), rel=0.15), name


def test_the_error_of_the_accuracy_is_that_of_a_share():
    whole, y = prediction(100, 2)
    p = scores(whole, y)["accuracy"]
    assert standard_errors(whole, y)["accuracy"] == pytest.approx(math.sqrt(p * (1 - p) / 99))


def test_errors_of_detection_are_those_of_the_bootstrap():
    inside, _ = prediction(150, 3)
    outside, _ = prediction(80, 4, sharpness=1.0)
    found = detection_errors(inside, outside)
    generator = np.random.default_rng(5)
    replicates = [
        ood_scores(
            chosen(inside, torch.as_tensor(generator.integers(0, 150, 150))),
            chosen(outside, torch.as_tensor(generator.integers(0, 80, 80))),
        )
        for _ in range(400)
    ]
    assert found.keys() == replicates[0].keys()
    for name, error in found.items():
        assert error == pytest.approx(np.std([r[name] for r in replicates]), rel=0.15), name


def test_one_example_has_no_standard_error():
    whole, y = prediction(1, 6)
    assert standard_errors(whole, y) == {}
    assert all(math.isnan(e) for e in detection_errors(whole, whole).values())


def test_scores_are_a_dictionary_that_prints_as_a_table(sampled, data):
    found = sampled.evaluate(data)
    assert isinstance(found, dict)
    assert json.loads(json.dumps(found)) == found == dict(found)
    assert found.num_examples == len(data[1])
    text = str(found)
    assert repr(found) == text
    for name, value in found.items():
        (line,) = (line for line in text.splitlines() if line.startswith(name))
        _, shown, error = line.split()
        assert abs(float(shown) - value) < 0.06 * found.standard_errors[name] + 1e-4
        assert float(error) == pytest.approx(found.standard_errors[name], rel=0.06)
        assert len(shown) < 9
    assert max(map(len, text.splitlines())) <= 80
    again = pickle.loads(pickle.dumps(found))
    assert (again, again.standard_errors) == (found, found.standard_errors)
    assert again.num_examples == found.num_examples


def test_evaluate_takes_inputs_and_labels(sampled, data):
    x, y = data
    assert sampled.evaluate(x, y) == sampled.evaluate((x, y))
    assert sampled.evaluate(x, y, 5) == sampled.evaluate((x, y), samples=5)
    assert sampled.evaluate((x, y), 5) == sampled.evaluate((x, y), samples=5)
    found = sampled.evaluate(x, y, ood=torch.randn_like(x))
    assert set(found) == set(found.standard_errors)
    with pytest.raises(htr.DataError, match=r"test"):
        sampled.evaluate(x, y[:-1])


def test_a_prediction_prints_its_first_labels():
    whole, _ = prediction(9, 7)
    text = str(whole)
    assert repr(whole) == "Prediction(9 labels, 3 classes)"
    assert "9 labels of 3 classes, of which the first 5" in text
    row = text.splitlines()[3].split()
    assert row[:2] == ["0", str(int(whole.labels[0]))]
    assert float(row[2]) == pytest.approx(float(whole.probs[0].max()), abs=6e-4)
    assert float(row[3]) == pytest.approx(float(whole.entropy[0]), abs=6e-4)
    assert float(row[4]) == pytest.approx(float(whole.mutual_information[0]), abs=6e-4)

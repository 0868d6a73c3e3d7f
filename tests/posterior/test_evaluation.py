"""Standard errors of scores, against the bootstrap, and how scores print."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
import torch

import bayes_htr as htr
from bayes_htr.models.likelihood_forms import as_likelihood
from bayes_htr.posterior.scores import detection, measured, ood_scores, scores


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


def standard_errors(whole, y, likelihood=None):
    return {name: score.error for name, score in measured(whole, y, likelihood).items()}


def draws(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classes():
    return *prediction(400, 0), None


def padded_tokens():
    """Tokens of one example are alike: an error that took them for independent would be small."""
    y = torch.arange(400)[:, None].expand(400, 6) % 3
    length = torch.arange(400)[:, None] % 6 + 1
    log_probs = (draws(400, 1, 3, seed=1) + 0.3 * draws(400, 6, 3, seed=2)).log_softmax(-1)
    whole = htr.Prediction(log_probs, torch.zeros(400, 6))
    padded = torch.where(torch.arange(6) < length, y, -100)
    return whole, padded, htr.Categorical(ignore_index=-100)


def several_yes_or_no():
    logits = draws(400, 1, seed=3) + 0.3 * draws(400, 3, seed=4)
    y = (draws(400, 1, seed=5) + 0.3 * draws(400, 3, seed=6) > 0.5).double()
    likelihood = htr.Bernoulli()
    return htr.Prediction(likelihood.class_log_probs(logits), torch.zeros(400, 3)), y, likelihood


def targets(*shape):
    likelihood = as_likelihood(htr.Normal(scale=0.5))
    outputs = draws(4, 400, *shape, seed=7)
    return htr.MixturePrediction(outputs, ({},) * 4, likelihood), draws(400, *shape, seed=8), None


CASES = {
    "classes": classes,
    "padded tokens": padded_tokens,
    "several yes or no": several_yes_or_no,
    "targets": targets,
    "several targets": lambda: targets(3),
}


def resampled(whole, y, indices):
    if isinstance(whole, htr.MixturePrediction):
        outputs = whole.outputs[:, indices]
        return htr.MixturePrediction(outputs, whole.values, whole.likelihood), y[indices]
    return chosen(whole, indices), y[indices]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_standard_errors_are_those_of_the_bootstrap(case):
    whole, y, likelihood = case()
    found = standard_errors(whole, y, likelihood)
    generator = np.random.default_rng(1)
    replicates = []
    for _ in range(400):
        some = resampled(whole, y, torch.as_tensor(generator.integers(0, 400, 400)))
        replicates.append(scores(*some, likelihood))
    assert found.keys() == replicates[0].keys()
    for name, error in found.items():
        # The sign of a bin's calibration error varies where it is near 0, which is not counted.
        tolerance = 0.4 if name.startswith("ece") else 0.15
        assert error == pytest.approx(np.std([r[name] for r in replicates]), rel=tolerance), name


def test_the_error_of_the_accuracy_is_that_of_a_share():
    whole, y = prediction(100, 2)
    p = scores(whole, y)["accuracy"]
    assert standard_errors(whole, y)["accuracy"] == pytest.approx(math.sqrt(p * (1 - p) / 99))


def test_errors_of_detection_are_those_of_the_bootstrap():
    inside, _ = prediction(150, 3)
    outside, _ = prediction(80, 4, sharpness=1.0)
    found = {name: score.error for name, score in detection(inside, outside).items()}
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
    assert all(math.isnan(e) for e in standard_errors(whole, y).values())
    assert all(math.isnan(score.error) for score in detection(whole, whole).values())
    assert htr.Scores.of(measured(whole, y), 1).standard_errors == {}


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

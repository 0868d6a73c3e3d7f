"""Scores of classes, of yes-or-no labels and of targets against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics

import bayes_htr as htr
from bayes_htr.models.likelihood_forms import as_likelihood
from bayes_htr.posterior.mixture_prediction import MixturePrediction
from bayes_htr.posterior.prediction import Prediction, mix
from bayes_htr.posterior.scores import ood_scores, scores


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def yes_or_no(logits):
    return mix([htr.Bernoulli().class_log_probs(logits)])


def test_yes_or_no():
    logits, y = drawn(200), (drawn(200, seed=1) > 0.3).double()
    p = torch.sigmoid(logits)
    found = scores(yes_or_no(logits), y, htr.Bernoulli())
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(y, p > 0.5))
    assert found["nll"] == pytest.approx(metrics.log_loss(y, p))
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(y, p))
    error = 0.0
    for b in range(15):
        inside = (p * 15).long().clamp(max=14) == b
        error += float((y[inside] - p[inside]).sum().abs()) / 200
    assert found["ece"] == pytest.approx(error)
    assert set(found) == {"accuracy", "nll", "brier", "ece"}


def test_several_yes_or_no_labels():
    """Means over labels, and the calibration error of each."""
    logits, y = drawn(100, 3), (drawn(100, 3, seed=1) > 0).double()
    whole = scores(yes_or_no(logits), y, htr.Bernoulli())
    each = [scores(yes_or_no(logits[:, i]), y[:, i], htr.Bernoulli()) for i in range(3)]
    for name in ("accuracy", "nll", "brier", "ece"):
        assert whole[name] == pytest.approx(np.mean([one[name] for one in each]))
    assert [whole[f"ece:{i}"] for i in range(3)] == pytest.approx([one["ece"] for one in each])


def test_soft_labels_of_yes_or_no():
    logits, q = drawn(50), torch.rand(50, dtype=torch.float64)
    p = torch.sigmoid(logits)
    found = scores(yes_or_no(logits), q, htr.Bernoulli())
    assert found["nll"] == pytest.approx(float(F.binary_cross_entropy(p, q)))
    assert found["brier"] == pytest.approx(float((p - q).square().mean()))


def test_tokens_count_alike_and_padding_not_at_all():
    log_probs = drawn(10, 4, 3).log_softmax(-1)
    y = torch.arange(40).reshape(10, 4) % 3
    padded = torch.where(torch.arange(4) < torch.arange(10)[:, None] % 5, y, -100)
    counted = padded != -100
    prediction = Prediction(log_probs, torch.zeros(10, 4))
    likelihood = htr.Categorical(ignore_index=-100)
    flat = Prediction(log_probs[counted], torch.zeros(int(counted.sum())))
    assert scores(prediction, padded, likelihood) == scores(flat, y[counted])


def test_soft_labels():
    log_probs, q = drawn(50, 3).log_softmax(-1), drawn(50, 3, seed=1).softmax(-1)
    prediction = Prediction(log_probs, torch.zeros(50))
    found = scores(prediction, q, htr.Categorical())
    assert found["nll"] == pytest.approx(float(-(q * log_probs).sum(1).mean()))
    assert found["brier"] == pytest.approx(float((q - log_probs.exp()).square().sum(1).mean()))
    y = torch.arange(50) % 3
    hard = scores(prediction, F.one_hot(y, 3).double(), htr.Categorical())
    assert hard == pytest.approx(scores(prediction, y))


def test_targets():
    outputs, y = drawn(1, 300, 2), drawn(300, 2, seed=1)
    likelihood = as_likelihood(htr.Normal(scale=0.5))
    found = scores(MixturePrediction(outputs, ({},), likelihood), y, likelihood)
    error = outputs[0] - y
    assert found["rmse"] == pytest.approx(float(error.square().mean().sqrt()))
    law = torch.distributions.Normal(0.0, 0.5)
    assert found["nll"] == pytest.approx(float(-law.log_prob(error).mean()))
    z = error / 0.5
    density = torch.distributions.Normal(0.0, 1.0).log_prob(z).exp()
    crps = 0.5 * (z * (2 * torch.special.ndtr(z) - 1) + 2 * density - np.pi**-0.5)
    assert found["crps"] == pytest.approx(float(crps.mean()))
    for level in (0.5, 0.9, 0.95):
        width = float(law.icdf(torch.tensor((1 + level) / 2)))
        share = float((error.abs() <= width).double().mean())
        assert found[f"coverage:{level}"] == pytest.approx(share)


def test_a_true_model_has_the_coverage_that_it_says():
    outputs = drawn(1, 4000)
    y = outputs[0] + 0.5 * drawn(4000, seed=1)
    likelihood = as_likelihood(htr.Normal(scale=0.5))
    found = scores(MixturePrediction(outputs, ({},), likelihood), y)
    for level in (0.5, 0.9, 0.95):
        assert found[f"coverage:{level}"] == pytest.approx(level, abs=0.03)


def test_without_a_mean_or_single_targets():
    import pyro.distributions as dist

    outputs, y = drawn(2, 30), drawn(30, seed=1)
    cauchy = as_likelihood(lambda f: dist.Cauchy(f, 1.0))
    found = scores(MixturePrediction(outputs, ({}, {}), cauchy), y)
    assert "rmse" not in found
    assert found["crps"] > 0
    arrays = as_likelihood(lambda f: dist.MultivariateNormal(f, torch.eye(2).double()))
    found = scores(MixturePrediction(drawn(2, 30, 2), ({}, {}), arrays), drawn(30, 2))
    assert set(found) == {"nll"}


def test_foreign_examples_have_a_wider_prediction():
    likelihood = as_likelihood(htr.Normal(scale=0.5))
    inside = MixturePrediction(drawn(4, 50), ({},) * 4, likelihood)
    outside = MixturePrediction(9 * drawn(4, 50, seed=1), ({},) * 4, likelihood)
    found = ood_scores(inside, outside)
    assert set(found) == {"ood_auroc_std", "ood_auroc_epistemic"}
    assert found["ood_auroc_epistemic"] > 0.9

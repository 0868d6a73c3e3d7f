"""Bernoulli, normal and any other likelihood: densities by hand, and as Pyro programs."""

from __future__ import annotations

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy import stats
from torch import nn

import bayes_htr as htr
from bayes_htr.models.likelihood_forms import as_likelihood
from bayes_htr.models.targets import SCALE
from tests.models.densities import draw

N = 7
ONE, TWO = draw((N, 1), seed=1), draw((N, 2), seed=2)
YES = torch.tensor([0, 1, 1, 0, 1, 0, 0])
SEVERAL = torch.stack([YES, 1 - YES], dim=1)
TARGETS = draw((N, 2), seed=3)
LEARNT = htr.Normal(scale=htr.HalfCauchy(1.0))
VALUES = {SCALE: torch.tensor(0.7, dtype=torch.float64)}


def poisson(outputs):
    return dist.Poisson(outputs.squeeze(-1).exp())


def correlated(outputs):
    return dist.MultivariateNormal(outputs, torch.eye(2, dtype=outputs.dtype))


def sigmoid(x):
    return 1 / (1 + np.exp(-x.numpy()))


CASES = {
    "one label": (
        htr.Bernoulli(),
        ONE,
        YES,
        lambda: stats.bernoulli.logpmf(YES, sigmoid(ONE[:, 0])),
    ),
    "several labels": (
        htr.Bernoulli(),
        TWO,
        SEVERAL,
        lambda: stats.bernoulli.logpmf(SEVERAL, sigmoid(TWO)),
    ),
    "normal": (
        htr.Normal(scale=0.3),
        ONE,
        TARGETS[:, 0],
        lambda: stats.norm.logpdf(TARGETS[:, 0], ONE[:, 0], 0.3),
    ),
    "several targets": (
        htr.Normal(scale=0.3),
        TWO,
        TARGETS,
        lambda: stats.norm.logpdf(TARGETS, TWO, 0.3),
    ),
    "noise learnt": (LEARNT, TWO, TARGETS, lambda: stats.norm.logpdf(TARGETS, TWO, 0.7)),
    "callable": (poisson, ONE, YES, lambda: stats.poisson.logpmf(YES, np.exp(ONE[:, 0].numpy()))),
    "whole arrays": (
        correlated,
        TWO,
        TARGETS,
        lambda: stats.norm.logpdf(TARGETS, TWO, 1.0).sum(1),
    ),
    "of PyTorch": (
        lambda outputs: torch.distributions.Laplace(outputs, 2.0),
        TWO,
        TARGETS,
        lambda: stats.laplace.logpdf(TARGETS, TWO, 2.0),
    ),
}
EACH = pytest.mark.parametrize(("given", "outputs", "y", "expected"), CASES.values(), ids=CASES)


def prepared(given, y):
    likelihood = as_likelihood(given)
    return likelihood, likelihood.cast(likelihood.checked(y, "y"), torch.float64)


@EACH
def test_densities_by_hand(given, outputs, y, expected):
    likelihood, y = prepared(given, y)
    values = VALUES if likelihood.hyperparameters else {}
    likelihood.check_outputs(outputs, N, "train", y)
    each = expected()
    np.testing.assert_allclose(likelihood.pointwise(outputs, y, values), each, rtol=1e-6)
    of_examples = each.reshape(N, -1).sum(1)
    np.testing.assert_allclose(likelihood.log_prob(outputs, y, values), of_examples, rtol=1e-6)
    assert likelihood(outputs, y, values).item() == pytest.approx(-of_examples.mean(), rel=1e-6)


@EACH
def test_as_a_program_it_is_num_data_times_the_mean(given, outputs, y, expected):
    likelihood, y = prepared(given, y)
    values = VALUES if likelihood.hyperparameters else {}
    trace = poutine.trace(likelihood.sample).get_trace(outputs, y, 200, values)
    torch.testing.assert_close(trace.log_prob_sum(), -200 * likelihood(outputs, y, values))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = likelihood.sample(outputs, None, 200, values)
    assert drawn.shape == y.shape


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("callable", "whole arrays")])
def test_plates_to_the_left_of_the_data(name):
    given, outputs, y, _ = CASES[name]
    likelihood, y = prepared(given, y)
    scales = torch.tensor([[0.5], [0.7], [2.0]], dtype=torch.float64)
    values = {SCALE: scales} if likelihood.hyperparameters else {}
    stacked = torch.stack([outputs, 2 * outputs, outputs - 1])
    found = likelihood.log_prob(stacked, y, values, left=1)
    for place in range(3):
        own = {SCALE: scales[place, 0]} if values else {}
        torch.testing.assert_close(found[place], likelihood.log_prob(stacked[place], y, own))
    law = likelihood.distribution(stacked, values, left=1)
    assert law.batch_shape == (3, N)
    torch.testing.assert_close(law.log_prob(y.to(stacked)), found)


@EACH
def test_a_mixture_averages_densities(given, outputs, y, expected):
    likelihood, y = prepared(given, y)
    each = [VALUES if likelihood.hyperparameters else {}] * 2
    pair = [outputs, outputs + 0.8]
    densities = [likelihood.pointwise(o, y, v).exp() for o, v in zip(pair, each, strict=True)]
    found = likelihood.mixture_pointwise(pair, y, each)
    torch.testing.assert_close(found.exp(), torch.stack(densities).mean(0))


def test_soft_labels_of_a_bernoulli():
    q, likelihood = torch.rand(N, dtype=torch.float64), htr.Bernoulli()
    p = torch.as_tensor(sigmoid(ONE[:, 0]))
    by_hand = q * p.log() + (1 - q) * (1 - p).log()
    torch.testing.assert_close(likelihood.pointwise(ONE, q), by_hand)
    mean = torch.as_tensor(sigmoid(ONE[:, 0]) + sigmoid(ONE[:, 0] + 1)) / 2
    by_hand = q * mean.log() + (1 - q) * (1 - mean).log()
    found = likelihood.mixture_pointwise([ONE, ONE + 1], q, [{}, {}])
    torch.testing.assert_close(found.flatten(), by_hand)
    assert "soft labels" in likelihood.improper(q)
    assert likelihood.improper(YES.double()) is None


@pytest.mark.parametrize(
    ("given", "outputs", "y", "score"),
    [
        (
            htr.Bernoulli(),
            TWO,
            SEVERAL,
            lambda: ((TWO > 0) == (SEVERAL > 0)).double().mean(1).sum(),
        ),
        (htr.Bernoulli(), ONE, YES, lambda: ((ONE[:, 0] > 0) == (YES > 0)).sum()),
        (LEARNT, TWO, TARGETS, lambda: (TWO - TARGETS).square().mean(1).sum()),
        (poisson, ONE, YES, lambda: (ONE[:, 0].exp() - YES).square().sum()),
    ],
)
def test_scores_are_sums_over_examples(given, outputs, y, score):
    likelihood, y = prepared(given, y)
    assert float(likelihood.score(outputs, y)) == pytest.approx(float(score()))


def test_a_distribution_without_a_mean_has_no_score():
    likelihood = as_likelihood(lambda outputs: dist.Cauchy(outputs, 1.0))
    assert np.isnan(likelihood.named_score(float(likelihood.score(ONE, ONE))))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (htr.Normal(1.0, 0.3), htr.PriorError, "the mean is the output of the network; leave out"),
        (
            htr.Normal(scale=htr.Shared("s", htr.HalfCauchy(1.0))),
            htr.PriorError,
            "the scale of the noise is a number, or a law",
        ),
        (htr.Lomax(2.0), htr.PriorError, r"of the laws, htr.Normal alone is a likelihood"),
        ("normal", ValueError, r"likelihood='normal' must be htr.Categorical"),
        (htr.Bernoulli, ValueError, "must be htr.Categorical"),
        (3, ValueError, "must be htr.Categorical"),
    ],
)
def test_what_is_no_likelihood(given, error, message):
    with pytest.raises(error, match=message):
        htr.BayesianModel(nn.Linear(3, 1), htr.Priors({}), likelihood=given)


@pytest.mark.parametrize(
    ("given", "y", "message"),
    [
        (htr.Bernoulli(), [0, 2, 1], "label 2 is neither 0 nor 1 .*htr.Categorical"),
        (htr.Bernoulli(), [0.0, np.nan], "label nan is neither"),
        (htr.Bernoulli(), np.zeros((2, 2, 2)), r"labels of shape \(2, 2, 2\)"),
        (htr.Bernoulli(), ["yes", "no"], "are no numbers; encode words by classes"),
        (LEARNT, [1.0, np.inf], r"1 targets are not finite, the first inf at \(1,\)"),
        (LEARNT, [1.0 + 1j], "must be real numbers"),
        (poisson, [np.nan], "1 targets are not finite"),
    ],
)
def test_labels_that_are_none(given, y, message):
    with pytest.raises(htr.DataError, match=f"train.*{message}"):
        as_likelihood(given).checked(y, "train")


@pytest.mark.parametrize(
    ("given", "outputs", "y", "message"),
    [
        (htr.Bernoulli(), TWO, YES, r"labels of shape \(7,\) do not fit outputs of shape \(7, 2\)"),
        (htr.Bernoulli(), TWO[:3], YES, r"must return logits, one for each yes-or-no label, of sh"),
        (LEARNT, ONE, TARGETS, r"labels of shape \(7, 2\) do not fit outputs of shape \(7, 1\)"),
        (LEARNT, "no", TARGETS, "must return one number for each target"),
        (poisson, TWO[:3], YES, r"batch shape \(3, 2\) for 7 examples"),
        (poisson, TWO, YES, r"of labels of shape \(7, 2\), and they have shape \(7,\); reshape"),
        (poisson, ONE, -1 - YES, "makes a Poisson, and 7 labels are not in its support"),
        (lambda outputs: 3, ONE, YES, "makes no distribution of outputs of shape"),
    ],
)
def test_outputs_that_do_not_fit(given, outputs, y, message):
    likelihood, y = prepared(given, y)
    with pytest.raises(htr.DataError, match=f"train.*{message}"):
        likelihood.check_outputs(outputs, N, "train", y)

"""Class weights and label smoothing against PyTorch's, by hand, and in all coordinates."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pyro
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine

import bayes_htr as htr
from bayes_htr.models import Categorical, Likelihood
from tests.models.densities import draw

WEIGHTS = (0.3, 1.0, 4.1)
LOGITS = draw((12, 3), seed=5)
Y = torch.arange(12) % 3
NORMAL = htr.Priors(htr.Entries(htr.Normal(0.0, 1.0)))


@pytest.mark.parametrize("eps", [0.0, 0.05, 0.9])
def test_without_weights_it_is_pytorchs(eps):
    found = Categorical(label_smoothing=eps)(LOGITS, Y)
    assert torch.equal(found, F.cross_entropy(LOGITS, Y, label_smoothing=eps))


def test_without_smoothing_it_is_as_ever():
    """Bit for bit."""
    weights = torch.tensor(WEIGHTS).float()
    for logits in (LOGITS, LOGITS.float()):
        assert torch.equal(Categorical()(logits, Y), F.cross_entropy(logits, Y))
        weights = torch.tensor(WEIGHTS, dtype=torch.float64).to(logits)
        expected = F.cross_entropy(logits, Y, weight=weights, reduction="sum") / 12
        assert torch.equal(Categorical(WEIGHTS)(logits, Y), expected)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("eps", [0.0, 0.2, 0.75])
def test_value_and_gradient_by_hand(weights, eps):
    w = np.asarray(weights or (1.0, 1.0, 1.0))[Y]
    q = (1 - eps) * np.eye(3)[Y] + eps / 3
    p = np.exp(LOGITS.numpy())
    p /= p.sum(1, keepdims=True)
    logits = LOGITS.clone().requires_grad_()
    found = Categorical(weights, eps)(logits, Y)
    found.backward()
    assert found.item() == pytest.approx(-np.mean(w * (q * np.log(p)).sum(1)), rel=1e-12)
    expected = torch.as_tensor(w[:, None] * (p - q) / 12)
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("eps", [0.0, 0.2])
def test_as_a_program_it_is_num_data_times_the_mean(weights, eps):
    likelihood = Categorical(weights, eps)
    trace = poutine.trace(likelihood.sample).get_trace(LOGITS, Y, 200)
    torch.testing.assert_close(trace.log_prob_sum(), -200 * likelihood(LOGITS, Y))
    assert torch.equal(trace.nodes["_RETURN"]["value"], Y)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("coordinates", ["map", "weight", "spectral"])
def test_coordinates_agree(make_model, weights, coordinates):
    """Smoothing adds to `log_joint` and to a trace what it adds to the likelihood there."""
    x, y = draw((30, 6), seed=6), torch.arange(30) % 3
    plain, smooth = (make_model(NORMAL, "mlp", weights, eps) for eps in (0.0, 0.3))
    with torch.random.fork_rng(devices=[]):
        pyro.set_rng_seed(0)
        trace = poutine.trace(plain.pyro_model("spectral")).get_trace(x, num_data=30)
    params = {name: 5 * p.detach() for name, p in plain.net.named_parameters()}
    if coordinates == "spectral":
        params = {
            name: site["value"]
            for name, site in trace.nodes.items()
            if name.startswith("fc") and site["type"] == "sample" and not site["is_observed"]
        }
    found = []
    for model in (plain, smooth):
        program = poutine.condition(model.pyro_model(coordinates), data=params)
        trace = poutine.trace(program).get_trace(x, y, num_data=200)
        joint = model.log_joint(params, (x, y), num_data=200, coordinates=coordinates)
        torch.testing.assert_close(trace.log_prob_sum(), joint)
        likelihood = model.likelihood(trace.nodes["y"]["fn"].logits, y)
        found.append((joint, -200 * likelihood))
    (joint, likelihood), (smooth_joint, smooth_likelihood) = found
    assert abs(smooth_likelihood - likelihood) > 0.1
    torch.testing.assert_close(smooth_joint - joint, smooth_likelihood - likelihood)


def test_labels_are_drawn_without_smoothing():
    """From the softmax, and with nothing observed."""
    logits = torch.tensor([[2.0, 0.0, -3.0]]).repeat(20_000, 1)
    with torch.random.fork_rng(devices=[]):
        pyro.set_rng_seed(0)
        trace = poutine.trace(Categorical(WEIGHTS, 0.9).sample).get_trace(logits, None, 1)
    assert "y:tempering" not in trace.nodes
    shares = torch.bincount(trace.nodes["y"]["value"], minlength=3) / 20_000
    torch.testing.assert_close(shares, logits[0].softmax(0), atol=0.015, rtol=0)


@pytest.mark.parametrize("eps", [1.0, -0.01, 1.5, float("nan"), float("inf"), None, "0.1", True])
def test_smoothing_out_of_range_raises(make_model, eps):
    with pytest.raises(ValueError, match=r"label_smoothing=.* at least 0 and below 1"):
        make_model(htr.Priors({}), label_smoothing=eps)


@pytest.mark.parametrize("eps", [0, np.float32(0.25), Fraction(1, 8)])
def test_any_number_is_taken(eps):
    assert Categorical(label_smoothing=eps) == Categorical(label_smoothing=float(eps))


def test_plain_data_and_back():
    for likelihood in (Categorical(), Categorical(WEIGHTS, 0.1, -100, 1), Categorical(np.ones(3))):
        assert Likelihood.from_dict(likelihood.to_dict()) == likelihood

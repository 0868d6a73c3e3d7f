"""What the priors alone predict: the mean of softmax outputs over `sample_prior`."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import functional_call

import bayes_htr as htr

PRIORS = htr.Priors(
    {"*.bias": htr.Entries(htr.Normal(0.0, 0.5)), "*.weight": htr.ESD(htr.Lomax(3.0, 0.5))}
)


@pytest.fixture
def model(network):
    return htr.BayesianClassifier(network().train(), PRIORS)


@pytest.mark.filterwarnings("ignore:no prior")
def test_is_the_mean_over_prior_draws(model, data):
    found = htr.prior_predictive(model, data[0], samples=5, seed=3)
    draws = htr.sample_prior(model, 5, seed=3)
    net = htr.Posterior(model.net, PRIORS).network()  # a copy in evaluation mode
    model.net.train()
    probs = torch.stack(
        [
            functional_call(net, {n: v[i] for n, v in draws.items()}, (data[0],)).softmax(1)
            for i in range(5)
        ]
    ).detach()
    assert isinstance(found, htr.Prediction)
    torch.testing.assert_close(found.probs, probs.mean(0), rtol=1e-4, atol=1e-6)
    entropy = torch.special.entr(probs.mean(0)).sum(1)
    information = entropy - torch.special.entr(probs).sum(2).mean(0)
    torch.testing.assert_close(found.entropy, entropy, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.mutual_information, information, rtol=1e-3, atol=1e-5)
    assert (found.mutual_information > 0).all()


@pytest.mark.filterwarnings("ignore:no prior")
def test_seeds_and_nothing_changed(model, data):
    torch.manual_seed(6)
    state = torch.get_rng_state()
    before = {n: v.clone() for n, v in model.net.state_dict().items()}
    a, b, c = (htr.prior_predictive(model, data[0], samples=3, seed=s) for s in (1, 1, 2))
    assert torch.equal(a.probs, b.probs)
    assert not torch.equal(a.probs, c.probs)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.net.training and model.net.drop.training
    for name, value in model.net.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_symmetric_prior_predicts_every_class_alike():
    """Logits `W x` with Haar frames are symmetric in the classes."""
    net = torch.nn.Linear(4, 3, bias=False)
    model = htr.BayesianClassifier(net, htr.Priors(htr.MaxEigenvalue(htr.Frechet(2.0))))
    found = htr.prior_predictive(model, torch.ones(1, 4), samples=4000)
    # the standard deviation of a probability is at most 1/2
    assert (found.probs - 1 / 3).abs().max() < 4 * 0.5 / math.sqrt(4000)


def test_flat_parameters_are_warned_of_here(model, data):
    with pytest.warns(UserWarning, match="no prior on bn.weight") as caught:
        htr.prior_predictive(model, data[0], samples=1)
    assert caught[0].filename == __file__


@pytest.mark.filterwarnings("ignore:no prior")
@pytest.mark.parametrize("samples", [0, -1, 1.5, True])
def test_bad_samples(model, data, samples):
    with pytest.raises(ValueError, match=f"samples={samples} must be a whole number"):
        htr.prior_predictive(model, data[0], samples=samples)


@pytest.mark.filterwarnings("ignore:no prior")
def test_bad_inputs(model):
    with pytest.raises(htr.DataError, match="x: the network does not take inputs"):
        htr.prior_predictive(model, torch.zeros(3, 1, 4, 5))
    with pytest.raises(htr.DataError, match="x: 48 inputs are not finite"):
        htr.prior_predictive(model, torch.full((3, 1, 4, 4), math.nan))


@pytest.mark.filterwarnings("ignore:no prior")
def test_arrays_and_schedules(network, data):
    model = htr.BayesianClassifier(network(), PRIORS.scheduled(htr.PowerDecay(1.0, cutoff=0.9)))
    with pytest.raises(htr.PriorError, match="epoch"):
        htr.prior_predictive(model, data[0])
    a = htr.prior_predictive(model, data[0].numpy(), samples=2, epoch=0)
    plain = htr.prior_predictive(htr.BayesianClassifier(network(), PRIORS), data[0], samples=2)
    torch.testing.assert_close(a.probs, plain.probs)

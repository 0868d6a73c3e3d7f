from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

import bayes_htr as htr

torch.set_num_threads(1)

PRIORS = {
    "flat": htr.Priors({}),
    "numbers": htr.Priors(
        {
            "fc1.weight": htr.MaxEigenvalue(htr.Frechet(2.0, 1.5)),
            "fc2.weight": htr.ESD(htr.Lomax(2.5, 0.7)) & htr.Entries(htr.Normal(0.0, 0.5)),
        }
    ).scaled(3.0),
    "marginalised": htr.Priors(htr.ESD(htr.Lomax(tail_index=htr.Gamma(9.0, 3.0)))),
    "joint": htr.Priors(htr.ESD(htr.Lomax(tail_index=htr.Joint(htr.Gamma(9.0, 3.0))))).scaled(2.0),
    "latent scale": htr.Priors(htr.MaxEigenvalue(htr.Frechet(2.0, scale=htr.LogNormal(0.0, 1.0)))),
    "shared": htr.Priors(
        htr.ESD(htr.Lomax(tail_index=htr.Shared("t", htr.Gamma(9.0, 3.0)), scale=0.5))
    ),
}


def network(kind: str = "mlp") -> nn.Module:
    """6 inputs, 3 classes, float64."""
    torch.manual_seed(0)
    middle = [("bn", nn.BatchNorm1d(5))] if kind == "batchnorm" else []
    layers = [("fc1", nn.Linear(6, 5)), *middle, ("tanh", nn.Tanh()), ("fc2", nn.Linear(5, 3))]
    return nn.Sequential(OrderedDict(layers)).double()


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (30,), generator=generator)


@pytest.fixture(params=list(PRIORS))
def priors(request):
    return PRIORS[request.param]


@pytest.fixture
def model():
    return htr.BayesianClassifier(network(), PRIORS["numbers"])


@pytest.fixture
def make_model():
    def make(priors, kind="mlp", class_weights=None, label_smoothing=0.0):
        given = {"class_weights": class_weights, "label_smoothing": label_smoothing}
        return htr.BayesianClassifier(network(kind), priors, **given)

    return make


@pytest.fixture
def elsewhere():
    """The model's parameters, moved away from where the network is."""

    def move(model):
        generator = torch.Generator().manual_seed(2)
        return {
            name: u + 0.1 * torch.randn(u.shape, generator=generator, dtype=u.dtype)
            for name, u in model.initial_params().items()
        }

    return move

from __future__ import annotations

from collections import OrderedDict

import matplotlib
import numpy as np
import pytest
import torch
from torch import nn

import bayes_htr as htr
from bayes_htr.inference.guides import Samples

matplotlib.use("Agg")
torch.set_num_threads(1)


def make_network():
    """Images of 4 x 4 to 3 classes, with a convolution, batch statistics and dropout."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [
            ("conv", nn.Conv2d(1, 5, 3, padding=1)),
            ("bn", nn.BatchNorm2d(5)),
            ("relu", nn.ReLU()),
            ("flatten", nn.Flatten()),
            ("drop", nn.Dropout(0.3)),
            ("fc", nn.Linear(80, 3)),
        ]
        return nn.Sequential(OrderedDict(layers))


@pytest.fixture
def network():
    return make_network


@pytest.fixture(scope="session")
def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(60, 1, 4, 4, generator=generator), torch.arange(60) % 3


@pytest.fixture(scope="session")
def posterior(data):
    priors = htr.Priors(htr.ESD(htr.Lomax(tail_index=htr.Joint(htr.Gamma(9.0, 3.0)))))
    model = htr.BayesianClassifier(make_network(), priors)
    return htr.fit(model, data, method=htr.MAP(), epochs=3, batch_size=16)


@pytest.fixture
def make_spectra():
    """Spectra with a heavy tail: `S` draws of `K` eigenvalues."""

    def make(S, K, seed=0, **more):
        draws = np.random.default_rng(seed).pareto(2.0, size=(S, K)) + 1.0
        return htr.PosteriorSpectra({"fc.weight": torch.as_tensor(draws), **more})

    return make


GUIDE_PRIORS = htr.Priors(
    {
        "conv.weight": htr.ESD(htr.Lomax(tail_index=htr.Gamma(9.0, 3.0))),
        "fc.weight": htr.MaxEigenvalue(htr.Frechet(2.0)),
    }
)


def make_draws(net, S, spread, seed=3):
    """Draws around a network's parameters, with a tail index for the first matrix."""
    generator = torch.Generator().manual_seed(seed)
    draws = {
        name: p.detach() + spread * torch.randn(S, *p.shape, generator=generator)
        for name, p in net.named_parameters()
    }
    draws["conv.weight:ESD.tail_index"] = 1 + torch.rand(S, generator=generator)
    return draws


@pytest.fixture(scope="session")
def draws():
    return make_draws(make_network(), 12, 0.3)


@pytest.fixture
def sampled(draws):
    """A posterior of stored draws."""
    config = {"method": {"name": "nuts"}}
    return htr.Posterior(make_network(), GUIDE_PRIORS, guide=Samples(draws), config=config)

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

import bayes_htr as htr
from bayes_htr.inference.guides.gaussian import LowRank, MeanField

torch.set_num_threads(1)

KINDS = {"meanfield": MeanField, "lowrank": LowRank}
OPTIONS = {"init_scale": 0.3, "rank": 3, "guide": "AutoNormal"}


def make_network() -> nn.Module:
    """4 inputs, 3 classes, float64."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [("fc1", nn.Linear(4, 5)), ("tanh", nn.Tanh()), ("fc2", nn.Linear(5, 3))]
        return nn.Sequential(OrderedDict(layers)).double()


@pytest.fixture(params=list(KINDS))
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def make_guide():
    """A guide with its model; all that it learns is moved away from where it starts."""

    def make(kind, priors, *, shaken=True):
        model = htr.BayesianClassifier(make_network(), priors)
        guide = kind.from_weights(model.densities(0), {}, OPTIONS)
        if shaken:
            generator = torch.Generator().manual_seed(3)
            with torch.no_grad():
                for p in guide.parameters():
                    p += 0.2 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        return model, guide

    return make

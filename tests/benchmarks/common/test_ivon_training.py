"""Training by IVON: what it trains, and its draws."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.common.ivon_training import trained_by_ivon


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))


def trained(net, data, **settings):
    x, y = data

    def loss(rows):
        return F.cross_entropy(net(x[rows]), y[rows])

    numbers = {"batch_size": 16, "lr": 0.1, "ess": 100.0, "hess_init": 1.0}
    return trained_by_ivon(net, loss, len(x), **numbers, **settings)


def test_draws_lie_around_the_trained_weights(data):
    pytest.importorskip("ivon")
    net = network()
    net[0].requires_grad_(False)
    before = [layer.weight.detach().clone() for layer in (net[0], net[2])]
    draws = trained(net, data, epochs=2)
    assert torch.equal(net[0].weight, before[0])
    mean = net[2].weight.detach().clone()
    assert not torch.allclose(mean, before[1])
    torch.manual_seed(0)
    drawn = torch.stack([own[2].weight.detach().clone() for own in draws(400)])
    assert torch.equal(net[2].weight, mean)
    assert (drawn.std(0) / 0.1 - 1).abs().max() < 0.2  # ess times the Hessian is about 100
    assert (drawn.mean(0) - mean).abs().max() < 0.03


def test_the_hessian_is_learnt(data):
    """With a short memory the spread of draws differs from weight to weight."""
    pytest.importorskip("ivon")
    draws = trained(network(), data, epochs=10, beta2=0.9)
    spread = torch.stack([own[2].weight.detach().clone() for own in draws(400)]).std(0)
    assert spread.max() > 1.5 * spread.min()

"""A network, data and a short fit for tests of spectrum histories."""

from __future__ import annotations

import torch
from torch import nn

import bayes_htr as htr

DATA = (torch.randn(60, 4, generator=torch.Generator().manual_seed(1)), torch.arange(60) % 3)


def make_network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def make_model(prior=None):
    return htr.BayesianClassifier(make_network(), htr.Priors({} if prior is None else prior))


def fit_with(history, epochs=4, method=None, prior=None, **more):
    method = method or htr.MAP(scheduler=None)
    model = make_model(prior)
    return htr.fit(
        model, DATA, method=method, epochs=epochs, batch_size=10, callbacks=[history], **more
    )


def diverged(path=None, start=1.0, steps=60):
    """A network whose weights grow tenfold per step until they leave their type."""
    history, net = htr.SpectrumHistory(path=path), make_network()
    net[0].weight.data *= start
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    with history.watch(net, optimizer):
        for _ in range(steps):
            net[0].weight.grad = -9 * net[0].weight.detach()
            optimizer.step()
    return history

"""What the tests of `with_prior` share: a network, its data, and loops that train it."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch.nn import functional as F

import bayes_htr as htr

N = 48
SPECTRAL = htr.Priors(htr.ESD(htr.Lomax(2.0, 1.0))).scaled(3.0)
LARGEST = htr.Priors(htr.MaxEigenvalue(htr.Frechet(2.0, 1.0))).scaled(3.0)
Adam = partial(torch.optim.Adam, lr=0.01)


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def trained(net, data, wrap, make=Adam, steps=20, parts=1, after_backward=None):
    """Weights of a copy of a network after some steps.

    Args:
        wrap: Makes the optimiser of the copy's own optimiser and the copy.
        parts: Batches whose gradients are accumulated to a step.
        after_backward: Is given the optimiser and the copy before each step.
    """
    net = copy.deepcopy(net)
    optimizer = wrap(make(net.parameters()), net)
    if hasattr(optimizer, "train"):
        optimizer.train()
    for _ in range(steps):
        optimizer.zero_grad()
        for x, y in zip(*(part.chunk(parts) for part in data), strict=True):
            (F.cross_entropy(net(x), y) / parts).backward()
        if after_backward is not None:
            after_backward(optimizer, net)
        optimizer.step()
    return weights(net)


def under(priors, *, decoupled=None, refresh=None):
    refresh = htr.Exact() if refresh is None else refresh
    return lambda optimizer, net: htr.with_prior(
        optimizer, priors, net, num_data=N, decoupled=decoupled, refresh=refresh
    )


def close(a, b, rtol=1e-10):
    torch.testing.assert_close(a, b, rtol=rtol, atol=1e-12)

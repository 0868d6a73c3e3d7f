"""Small things that the tests of this folder share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import bayes_htr as htr


class OneMatrix(nn.Module):
    """A network that is one parameter called `weight`."""

    def __init__(self, W: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(W.clone())


@pytest.fixture
def one_matrix():
    return OneMatrix


@pytest.fixture
def evaluate():
    """`(energy, gradient)` of a prior, or priors, at one matrix."""

    def evaluate(prior, W, epoch=None):
        net = OneMatrix(W)
        priors = prior if isinstance(prior, htr.Priors) else htr.Priors(prior)
        energy = htr.bind(priors, net, refresh=htr.Exact())(epoch)
        if not energy.requires_grad:
            return energy, torch.zeros_like(W)
        energy.backward()
        return energy.detach(), net.weight.grad

    return evaluate


@pytest.fixture
def with_spectrum():
    """A random float64 matrix with given singular values, and its singular vectors."""

    def build(sigma, rows, columns, seed=0):
        generator = torch.Generator().manual_seed(seed)
        sigma = torch.as_tensor(sigma, dtype=torch.float64)

        def frame(n):
            X = torch.randn(n, len(sigma), generator=generator, dtype=torch.float64)
            return torch.linalg.qr(X).Q

        U, V = frame(rows), frame(columns)
        return U * sigma @ V.T, U, V

    return build


@pytest.fixture
def net():
    """A small network in float64, for tests of `with_prior`."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


@pytest.fixture
def data():
    """Inputs and labels for it."""
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(48, 6, generator=generator, dtype=torch.float64)
    return X, torch.randint(0, 3, (48,), generator=generator)

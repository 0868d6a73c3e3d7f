"""Priors on one matrix, for tests of the density and of simulation."""

from __future__ import annotations

import torch
from torch import nn

import bayes_htr as htr
from bayes_htr.priors import MatrixPrior


def matrix_prior(prior, shape, strength=1.0, epoch=None) -> MatrixPrior:
    return MatrixPrior.of(prior, "w", shape, strength=strength).density_at(epoch)


def model_of(prior, shape, dtype=torch.float64):
    """A network of one matrix, `n -> m`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        net = nn.Sequential(nn.Linear(shape[1], shape[0], bias=False)).to(dtype)
    priors = prior if isinstance(prior, htr.Priors) else htr.Priors(prior)
    return htr.BayesianClassifier(net, priors)


def draw(shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

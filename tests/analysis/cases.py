"""Networks and matrices that several tests of the analysis use."""

import numpy as np
import torch
from torch import nn


class Net(nn.Module):
    """Every kind of layer, and tied weights."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 12)
        self.conv = nn.Conv2d(4, 10, 3, groups=2)
        self.up = nn.ConvTranspose2d(6, 8, 2, groups=2)
        self.attention = nn.MultiheadAttention(12, 2)
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, 30, bias=False)
        self.head.weight = self.embed.weight


def network(seed=0, spike=0.0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(60, 40), nn.Linear(40, 30), nn.Linear(30, 25, bias=False))
    net[2].weight.data = torch.eye(25, 30)  # no tail
    net[0].weight.data[0] += spike
    return net


def flat(source):
    """The weights of a source by name, each as one matrix."""
    return {w.name: w.matrices("flatten")[0].detach() for w in source.weights}


def gaussian(N, M, seed=0, sd=0.1):
    return torch.from_numpy(sd * np.random.default_rng(seed).standard_normal((N, M)))


def spiked(strengths, N=300, M=150):
    """A random matrix with spikes."""
    W = gaussian(N, M, sd=1.0)
    U, V = (torch.linalg.qr(gaussian(n, len(strengths), 1)).Q for n in (N, M))
    return W + U * torch.tensor(strengths, dtype=torch.float64) @ V.T


def pareto(n, index, seed):
    """A matrix whose eigenvalues follow a power law of tail index `index`."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(n, generator=generator, dtype=torch.float64)
    Q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    return Q * u ** (-0.5 / index)


def mixed_state(index=1.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "random": torch.randn(100, 150, generator=generator),
        "heavy $x$": pareto(200, index, seed),
        "eye": torch.eye(30),
    }

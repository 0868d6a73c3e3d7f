from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayes_htr as htr

torch.set_num_threads(1)


def make_network(kind: str = "mlp") -> nn.Module:
    """6 inputs, 3 classes."""
    middle = {
        "mlp": [],
        "dropout": [("drop", nn.Dropout(0.3))],
        "batchnorm": [("bn", nn.BatchNorm1d(8))],
    }[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [("fc1", nn.Linear(6, 8)), *middle, ("relu", nn.ReLU()), ("fc2", nn.Linear(8, 3))]
        return nn.Sequential(OrderedDict(layers))


def make_data(n: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator)
    return x, (x[:, :3] + 0.3 * torch.randn(n, 3, generator=generator)).argmax(1)


@pytest.fixture
def network():
    return make_network


@pytest.fixture(scope="session")
def data():
    """50 examples: with batches of 16 the last one has 2."""
    return make_data(50, seed=1)


@pytest.fixture(scope="session")
def validation():
    return make_data(40, seed=2)


@pytest.fixture
def model():
    return htr.BayesianClassifier(make_network(), htr.Priors({}))


@pytest.fixture
def make_model():
    def make(priors=None, kind="mlp", **more):
        return htr.BayesianClassifier(make_network(kind), priors or htr.Priors({}), **more)

    return make


@pytest.fixture
def frechet():
    return htr.Priors(htr.MaxEigenvalue(htr.Frechet(2.0, 1.0)))


@pytest.fixture
def same_weights():
    """Bit for bit, buffers included."""

    def check(a, b):
        a, b = (m if isinstance(m, nn.Module) else m.network() for m in (a, b))
        assert a.state_dict().keys() == b.state_dict().keys()
        for name, value in a.state_dict().items():
            assert torch.equal(value, b.state_dict()[name]), name

    return check


@pytest.fixture
def plain_loop():
    """Ordinary training in plain PyTorch, independent of the library."""

    def train(net, x, y, *, epochs, optimizer, scheduler=None, batch_size=16, seed=0, clip=None):
        net = copy.deepcopy(net).train()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            loader = DataLoader(
                TensorDataset(x, y),
                batch_size=batch_size,
                shuffle=True,
                generator=torch.Generator().manual_seed(seed),
            )
            optimizer = optimizer([p for p in net.parameters() if p.requires_grad])
            scheduler = scheduler and scheduler(optimizer)
            for _ in range(epochs):
                for xb, yb in loader:

                    def closure(xb=xb, yb=yb):
                        optimizer.zero_grad()
                        loss = F.cross_entropy(net(xb), yb)
                        loss.backward()
                        if clip is not None:
                            nn.utils.clip_grad_norm_(net.parameters(), clip)
                        return loss

                    optimizer.step(closure)
                if scheduler is not None:
                    scheduler.step()
        return net

    return train


@pytest.fixture(params=["new", "empty"])
def untouched(request, tmp_path):
    """A folder to write to; afterwards nothing must be in it, or there."""
    path = tmp_path / "runs" / "a"
    if request.param == "empty":
        path.mkdir(parents=True)
    yield path
    assert not path.exists() if request.param == "new" else list(path.iterdir()) == []
    assert request.param == "empty" or not path.parent.exists()

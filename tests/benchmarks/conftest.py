"""Small cases that take milliseconds, and the mark that all tests of the benchmarks have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import bayes_htr as htr
from benchmarks.common.stopwatch import Stopwatch
from benchmarks.cost.training import Case, Training


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.benchmarks)


class FakeClock:
    """A clock that goes on when told to."""

    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time


class FakeRun:
    """A run whose steps take a given time on a fake clock."""

    def __init__(self, clock, seconds, name="", log=None):
        self.clock, self.seconds = clock, seconds
        self.name, self.log = name, [] if log is None else log

    def steps(self, count):
        self.clock.time += count * self.seconds
        self.log.append((self.name, count))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def fake_run(clock):
    return lambda seconds, name="", log=None: FakeRun(clock, seconds, name, log)


@pytest.fixture
def ticking():
    """A stopwatch whose clock goes on by one second whenever it is read."""
    times = iter(range(10**6))
    return Stopwatch(torch.device("cpu"), lambda: float(next(times)))


def build(seed):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4))


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(70, 12, generator=generator), torch.arange(70) % 4


@pytest.fixture
def case(data):
    """A tiny network under a prior."""

    def case(prior="lomax", refresh=None, **settings):
        training = Training(
            batch_size=16, refresh=htr.Exact() if refresh is None else refresh, **settings
        )
        return Case(build, *data, training, prior)

    return case


@pytest.fixture
def data_dir(tmp_path_factory):
    """Data sets of a few random images, in the form of the real ones."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    shapes = {"kmnist_10k": (28, 28), "fashion_mnist": (28, 28), "cifar10_12k": (32, 32, 3)}
    for name, shape in shapes.items():
        arrays = {}
        for split, count in (("train", 24), ("test", 12)):
            arrays[f"x_{split}"] = random.integers(256, size=(count, *shape), dtype=np.uint8)
            arrays[f"y_{split}"] = (np.arange(count) % 10).astype(np.uint8)
        np.savez(folder / f"{name}.npz", **arrays)
    return folder

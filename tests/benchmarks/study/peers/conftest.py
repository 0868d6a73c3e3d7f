"""A task that takes milliseconds: three clouds of points, as images of 2 x 2 pixels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.study.cells import Base
from benchmarks.study.method import Task


def network(dropout=0.0):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        drop = [nn.Dropout(dropout)] if dropout else []
        return nn.Sequential(
            nn.Flatten(), nn.Linear(4, 16), nn.ReLU(), *drop, nn.Linear(16, 3)
        ).eval()


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(96) % 3
    x = 2.0 * torch.eye(4)[y] + torch.randn(96, 4, generator=generator)
    return x.view(-1, 1, 2, 2), y


@pytest.fixture
def task(images):
    """Makes a task from the numbers of a trial, epochs and a seed."""

    def task(numbers=None, epochs=8, seed=0, schedule="cosine"):
        numbers = numbers or {}
        net = network(numbers.get("dropout", 0.0))
        return Task(net, images, Base(epochs, 0.1, schedule), 16, numbers, seed)

    return task

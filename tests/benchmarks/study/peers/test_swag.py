"""SWAG's moments against naive formulas, and what its schedule does."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.study.peers import swag as module
from benchmarks.study.peers.swag import RANK, SNAPSHOTS, Moments, swag


def filled(count, size=3):
    generator = torch.Generator().manual_seed(0)
    snapshots = 100 + torch.randn(count, size, generator=generator).double().cumsum(0)
    moments = Moments()
    for snapshot in snapshots:
        moments.add(snapshot)
    return snapshots, moments


@pytest.mark.parametrize("count", [2, 7, RANK + 5])
def test_moments(count):
    snapshots, moments = filled(count)
    torch.testing.assert_close(moments.mean, snapshots.mean(0))
    torch.testing.assert_close(moments.variance, snapshots.var(0, correction=0))
    naive = [snapshots[i] - snapshots[: i + 1].mean(0) for i in range(count)][-RANK:]
    torch.testing.assert_close(torch.stack(tuple(moments.deviations)), torch.stack(naive))


def test_draws_have_the_mean_and_covariance_of_the_paper():
    snapshots, moments = filled(RANK + 5)
    torch.manual_seed(0)
    draws = torch.stack([moments.draw() for _ in range(20_000)])
    deviations = torch.stack(tuple(moments.deviations))
    covariance = (moments.variance.diag() + deviations.T @ deviations / (RANK - 1)) / 2
    scale = covariance.diag().sqrt()
    torch.testing.assert_close(draws.mean(0), snapshots.mean(0), atol=0.03 * scale.max(), rtol=0)
    error = (draws.T.cov() - covariance) / torch.outer(scale, scale)
    assert error.abs().max() < 0.04


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_learning_rate(task, monkeypatch, schedule):
    rates, taken = [], []
    descend, add = module.descend, Moments.add

    def noted(net, optimizer, batch):
        rates.append(optimizer.param_groups[0]["lr"])
        return descend(net, optimizer, batch)

    monkeypatch.setattr(module, "descend", noted)
    monkeypatch.setattr(Moments, "add", lambda self, w: taken.append(len(rates)) or add(self, w))
    swag(task({"share": 0.5, "passes": 1.0}, epochs=40, schedule=schedule))
    assert len(rates) == 240
    assert rates[0] == 0.1
    middle = 0.05 + 0.05 * (1 + math.cos(math.pi / 2)) / 2 if schedule == "cosine" else 0.1
    assert rates[90] == pytest.approx(middle)
    assert rates[180:] == [pytest.approx(0.05)] * 60
    assert len(taken) == SNAPSHOTS
    assert taken[0] > 180
    assert taken[-1] == 240


def test_a_second_pass_collects_snapshots(task, monkeypatch):
    steps, taken = [], []
    descend, add = module.descend, Moments.add
    monkeypatch.setattr(module, "descend", lambda *a: steps.append(1) or descend(*a))
    monkeypatch.setattr(Moments, "add", lambda self, w: taken.append(len(steps)) or add(self, w))
    swag(task({"share": 0.5, "passes": 2.0}, epochs=10))
    assert len(steps) == 120  # twice ten epochs of six steps
    assert len(taken) == SNAPSHOTS
    assert 60 < taken[0] <= 62
    assert taken[-1] == 120

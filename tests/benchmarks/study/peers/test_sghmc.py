"""SGHMC on a posterior that is known: that of weights which the data say nothing about."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.study.peers.draws import Draws
from benchmarks.study.peers.sghmc import CYCLES, DRAWS, sghmc


@pytest.fixture
def drawn(monkeypatch):
    """The weights that predictions use, from a fit."""
    pytest.importorskip("posteriors")

    def drawn(task, count=1000):
        fit = sghmc(task)
        assert isinstance(fit, Draws)
        return [net.args[1] for net in fit.draw(count)]

    return drawn


def blind(task, **numbers):
    """Images are zero, so that logits do not depend on the weights."""
    given = {"lr": 1.0, "passes": 1.0, **numbers}
    own = task(given, epochs=800)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 500, bias=False))
    x, y = torch.zeros(8, 1, 2, 2), own.data[1][:8]
    return replace(own, net=net, data=(x, y))


@pytest.mark.parametrize(("precision", "temperature"), [(8.0, 1.0), (16.0, 0.25)])
def test_the_posterior_is_the_prior_without_information(drawn, task, precision, temperature):
    found = drawn(blind(task, precision=precision, temperature=temperature))
    assert len(found) == CYCLES * DRAWS
    weights = torch.stack([w["1.weight"] for w in found[DRAWS - 1 :: DRAWS]])  # the last of cycles
    assert weights.var() == pytest.approx(temperature / precision, rel=0.15)
    assert abs(float(weights.mean())) < 0.1 * (temperature / precision) ** 0.5
    cycles = weights.flatten(1)
    assert torch.corrcoef(cycles).fill_diagonal_(0).abs().max() < 0.15


def test_passes_and_the_draws_of_a_prediction(drawn, task):
    given = {"lr": 0.1, "precision": 1.0, "temperature": 0.1}
    few, many = (drawn(task({**given, "passes": passes}, epochs=16), 4) for passes in (1.0, 2.0))
    assert len(few) == len(many) == 4
    assert not torch.allclose(few[0]["1.weight"], many[0]["1.weight"])
    assert len({float(w["1.weight"].sum()) for w in few}) == 4

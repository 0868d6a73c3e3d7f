"""SGHMC on a normal posterior, which is known, and the draws that it keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from benchmarks.study.peers.sghmc import CYCLES, DRAWS, move, sghmc


def test_a_normal_posterior():
    """Observations of a mean with a normal prior: the chain has the conjugate moments."""
    torch.manual_seed(0)
    y = torch.tensor([1.0, 2.0, 4.5, 0.5])
    prior, noise = 2.0, 0.5  # the precisions of the prior and of an observation
    count = len(y)
    theta = nn.Parameter(torch.zeros(4000))  # independent chains
    momenta = [torch.zeros(4000)]
    for _ in range(150):
        theta.grad = noise * (theta.detach() - y.mean())  # of the mean loss
        move([theta], momenta, lr=0.1, decay=prior / count, temperature=1 / count)
    precision = prior + count * noise
    assert theta.mean().item() == pytest.approx(noise * y.sum().item() / precision, abs=0.04)
    assert theta.var().item() == pytest.approx(1 / precision, rel=0.1)
    assert momenta[0].var().item() == pytest.approx(0.1 / count, rel=0.1)


def test_a_step_without_temperature_is_one_of_sgd_with_momentum():
    ours, theirs = (nn.Parameter(torch.arange(3.0)) for _ in range(2))
    optimizer = torch.optim.SGD([theirs], lr=0.3, momentum=0.9, weight_decay=0.1)
    momenta = [torch.zeros(3)]
    for _ in range(5):
        for p in (ours, theirs):
            p.grad = p.detach() ** 2 - 1
        move([ours], momenta, lr=0.3, decay=0.1, temperature=0.0)
        optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_cycles_draw_around_modes_of_their_own(task):
    given = {"temperature": 0.01, "passes": 1.0}
    fits = [sghmc(task(given, epochs=24)), sghmc(task({**given, "passes": 2.0}, epochs=12))]
    own, passed = (
        torch.stack([parameters_to_vector(net.parameters()).detach() for net in fit.draw(1000)])
        for fit in fits
    )
    torch.testing.assert_close(own, passed)
    assert len(own) == CYCLES * DRAWS
    cycles = own.view(CYCLES, DRAWS, -1)
    within = (cycles[:, 1:] - cycles[:, :-1]).norm(dim=-1).mean()
    between = (cycles[1:].mean(1) - cycles[:-1].mean(1)).norm(dim=-1).mean()
    assert 0 < within < between
    few = [parameters_to_vector(net.parameters()).detach() for net in fits[0].draw(4)]
    torch.testing.assert_close(torch.stack(few), own[4::8])  # the middle of each quarter
    short = replace(task(given), data=tuple(part[:8] for part in task().data))
    assert torch.isfinite(sghmc(short).predict(short.data[0], 2).log_probs).all()

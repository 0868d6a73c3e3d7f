"""Schedules of the learning rate."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR

import bayes_htr as htr
from bayes_htr.inference.schedule import Schedule, stretch_cosine

WEIGHTS = [torch.zeros(1, requires_grad=True)]


@pytest.mark.parametrize(
    ("interval", "rates"), [("epoch", [0.1, 0.05]), ("step", [0.025, 0.00625])]
)
def test_a_schedule_steps_by_epoch_or_by_update(interval, rates):
    method = htr.MAP(
        lr=0.1,
        scheduler=lambda optimizer: StepLR(optimizer, step_size=1, gamma=0.5),
        scheduler_interval=interval,
    )
    optimizer = method.optimizer(WEIGHTS, lr=method.lr)
    schedule = Schedule(method, optimizer, epochs=2, updates=2)
    seen = []
    for _ in range(2):
        for _ in range(2):
            optimizer.step()
            if schedule.steps_by_update:
                schedule.after_update()
        seen.append(schedule.lr)
        schedule.after_epoch({"loss": 1.0})
    assert seen == pytest.approx(rates)


def test_without_a_scheduler_the_rate_is_constant():
    method = htr.MAP(lr=0.1, scheduler=None, scheduler_interval="step")
    schedule = Schedule(method, method.optimizer(WEIGHTS, lr=0.1), epochs=2, updates=2)
    schedule.after_epoch({"loss": 1.0})
    assert (schedule.steps_by_update, schedule.lr, schedule.state()) == (False, 0.1, None)


@pytest.mark.parametrize("tensor_rate", [False, True])
def test_a_stretched_schedule_is_that_of_the_longer_run(tensor_rate):
    def trained(horizon, epochs):
        lr = torch.tensor(0.1) if tensor_rate else 0.1
        optimizer = torch.optim.Adam(WEIGHTS, lr=lr, fused=True)
        scheduler = CosineAnnealingLR(optimizer, T_max=horizon)
        for _ in range(epochs):
            optimizer.step()
            scheduler.step()
        return scheduler

    short, long = trained(5, 3), trained(9, 3)
    stretch_cosine(short, 9, done=3)
    for _ in range(3):
        rates = [float(s.optimizer.param_groups[0]["lr"]) for s in (short, long)]
        assert rates[0] == pytest.approx(rates[1], rel=1e-6)
        for scheduler in (short, long):
            scheduler.optimizer.step()
            scheduler.step()

"""Settings of training: how they are described, and schedules that are stretched."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

import bayes_htr as htr
from bayes_htr.inference.settings import stretch_cosine

WEIGHTS = [torch.zeros(1, requires_grad=True)]


def test_settings_are_the_same_in_every_process():
    """A resumed run is recognised by them: no addresses."""
    rates = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda e: 0.9**e)

    class Schedule:
        def __call__(self, optimizer):
            return CosineAnnealingLR(optimizer, 3)

    for scheduler in (rates, Schedule()):
        assert " at 0x" not in str(htr.MAP(scheduler=scheduler).describe())
    first, second = (htr.MAP(optimizer=partial(torch.optim.SGD, momentum=m)) for m in (0.1, 0.2))
    assert first.describe() != second.describe()


def test_what_a_run_folder_holds():
    assert htr.MAP(lr=0.1, clip=2, patience=3).describe() == {
        "name": "map",
        "lr": 0.1,
        "optimizer": {"name": "SGD", "args": [], "kwargs": {"momentum": "0.9"}},
        "scheduler": "cosine",
        "patience": 3,
        "clip": 2.0,
        "refresh": htr.Drift().to_dict(),
    }
    assert htr.SVI(scheduler=None).describe()["optimizer"] == "fused_adam"


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

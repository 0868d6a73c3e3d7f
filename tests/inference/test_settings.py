"""Settings of training: how they are described."""

from __future__ import annotations

from functools import partial

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

import bayes_htr as htr


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

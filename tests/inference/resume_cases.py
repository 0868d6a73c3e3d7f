"""Runs that are interrupted and resumed: used by the tests here and, as a script, in new processes.

    python resume_cases.py OUT EPOCHS CASE...

trains each case to EPOCHS in the folder OUT/CASE, resuming what is there.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adam
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import bayes_htr as htr


def data(n=40, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator)
    return x, (x[:, :3] + torch.randn(n, 3, generator=generator)).argmax(1)


def network(width=8, norm=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        middle = [("bn", nn.BatchNorm1d(width))] if norm else []
        layers = [
            ("fc1", nn.Linear(6, width)),
            *middle,
            ("relu", nn.ReLU()),
            ("drop", nn.Dropout(0.2)),
            ("fc2", nn.Linear(width, width)),
            ("fc3", nn.Linear(width, 3)),
        ]
        return nn.Sequential(OrderedDict(layers))


def loader(with_generator):
    torch.manual_seed(11)  # of no consequence
    generator = torch.Generator().manual_seed(3) if with_generator else None
    return DataLoader(TensorDataset(*data()), 16, shuffle=True, generator=generator)


def batch_sampler():
    sampler = RandomSampler(range(40), generator=torch.Generator().manual_seed(3))
    batches = torch.utils.data.BatchSampler(sampler, 16, drop_last=False)
    return DataLoader(TensorDataset(*data()), batch_sampler=batches)


FLAT = htr.Priors({})
TOP = htr.Priors({"fc2.weight": htr.MaxEigenvalue(htr.Frechet(2.0, 1.0))}).scaled(20.0)
JOINT = htr.Priors(htr.ESD(htr.Lomax(tail_index=htr.Joint(htr.Gamma(9.0, 3.0)))))
DECAY = TOP.scheduled(htr.PowerDecay(1.0, period=2))


def case(priors=FLAT, *, train=data, width=8, norm=False, validation=False, **method):
    model = htr.BayesianClassifier(network(width, norm), priors)
    more = {"batch_size": 16} | ({"validation": data(30, 2)} if validation else {})
    return partial(htr.fit, model, train(), method=htr.MAP(**method), seed=5, **more)


def two_rates(parameters, lr):
    half = len(parameters) // 2
    groups = [{"params": parameters[:half], "lr": lr / 50}, {"params": parameters[half:]}]
    return SGD(groups, lr=lr, momentum=0.9)


CASES = {
    "two rates": partial(case, optimizer=two_rates),
    "momentum": partial(case, scheduler=None),
    "cosine": case,
    "batchnorm": partial(case, norm=True),
    "adam": partial(case, optimizer=Adam, lr=0.01, scheduler=partial(StepLR, step_size=3)),
    "lbfgs": partial(case, optimizer=partial(LBFGS, max_iter=3), lr=0.1),
    "onecycle": partial(case, scheduler=partial(OneCycleLR, max_lr=0.1, total_steps=10)),
    "lambda": partial(case, scheduler=partial(LambdaLR, lr_lambda=lambda e: 0.8**e)),
    "numpy numbers": partial(
        case,
        optimizer=partial(SGD, momentum=torch.tensor(0.9).numpy()[()]),
        lr=torch.tensor(0.05).double().numpy()[()],
    ),
    "plateau": partial(
        case, scheduler=partial(ReduceLROnPlateau, patience=0), validation=True, lr=0.5
    ),
    "warm blocks": partial(case, TOP, width=72),
    "hyperparameters": partial(case, JOINT),
    "decay": partial(case, DECAY),
    "patience": partial(case, patience=4, validation=True, scheduler=None, lr=0.5),
    "loader": partial(case, train=partial(loader, True)),
    "loader, global": partial(case, train=partial(loader, False)),
    "batch sampler": partial(case, train=batch_sampler),
}


def stop_at(epoch):
    return lambda event: event.epoch == epoch


if __name__ == "__main__":
    torch.set_num_threads(1)
    out, epochs, names = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    for name in names:
        CASES[name]()(epochs=epochs, out=out / name, resume=True)

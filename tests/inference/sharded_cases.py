"""Fits whose weights two processes shard; `tests/inference/test_sharded.py` starts them."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn

import bayes_htr as htr
from tests.inference.distributed_cases import (
    FLAT,
    Rotten,
    data,
    regression,
    save_results,
    shuffled,
)


def network():
    """Seven rows and three: parts of different sizes, and one bias that the second has not."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 7), nn.Linear(7, 3))


LOMAX = htr.Priors({"*.weight": htr.ESD(htr.Lomax(2.5, 0.05))})
TOP = htr.Priors({"*.weight": htr.MaxEigenvalue(htr.Frechet(2.0, 1.0))}).scaled(20.0)
JOINT = htr.Priors({"0.weight": htr.ESD(htr.Lomax(tail_index=htr.Joint(htr.Gamma(9.0, 3.0))))})
NORMAL = htr.Priors({"*.weight": htr.Entries(htr.Normal(0.0, 0.5))})


def fit(priors=FLAT, *, train=None, shard=True, net=None, **more):
    of_method = ("lr", "optimizer", "clip", "patience", "accumulate", "amp", "refresh")
    method = {k: more.pop(k) for k in of_method if k in more}
    model = htr.BayesianClassifier(network() if net is None else net, priors)
    given = {"epochs": 2, "batch_size": 16, "seed": 5} | more
    train = data() if train is None else train
    return htr.fit(model, train, method=htr.MAP(**method), shard=shard, **given)


# Each has the same result in one process, but for rounding.
SAME = {
    "flat": fit,
    "all eigenvalues": partial(fit, LOMAX, refresh=htr.Exact()),
    "largest eigenvalue": partial(fit, TOP, refresh=htr.Exact()),
    "tail index": partial(fit, JOINT, refresh=htr.Exact()),
    "cached gradients": partial(fit, LOMAX, epochs=1),
    "cached leading vectors": partial(fit, TOP, epochs=1),
    "entries": partial(fit, NORMAL),
    "adam": partial(fit, optimizer=torch.optim.Adam, lr=0.01),
    "single examples": partial(fit, batch_size=1, epochs=1),
    "clip": partial(fit, clip=0.1),
    "accumulated": partial(fit, batch_size=8, accumulate=3),
    "loader": lambda **more: fit(train=shuffled(), **more),
    "patience": partial(fit, validation=data(31, 2), epochs=9, patience=2, lr=0.4),
    "learnt noise": partial(regression, shard=True),
}


def resumed(out):
    """Stopped after two of four epochs and resumed, against a run that was not."""
    start = partial(fit, LOMAX, epochs=4, optimizer=torch.optim.Adam, lr=0.01)
    start(out=out / "resumed", callbacks=[lambda event: event.epoch == 2])
    found = [start(out=out / "resumed", resume=True), start()]
    return {"posterior": found[0], "whole": found[1].network().state_dict()}


OTHERS = {
    "resumed": resumed,
    "saved": lambda out: fit(out=out / "saved"),
    "data raise": lambda out: fit(train=torch.utils.data.DataLoader(Rotten(), 16)),
    "diverges": lambda out: fit(lr=1e30, epochs=9),
    "step callback": lambda out: fit(callbacks=[htr.SpectrumHistory()]),
    "half": lambda out: fit(amp="float16"),
    "lbfgs": lambda out: fit(optimizer=torch.optim.LBFGS),
    "members": lambda out: fit(members=2),
    "still in step": lambda out: fit(),
}


if __name__ == "__main__":
    cases = SAME | {name: partial(run, Path(sys.argv[1])) for name, run in OTHERS.items()}
    save_results(cases)

"""Posteriors and mixtures in several processes; `test_replica_svi.py` starts them by `torchrun`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

import bayes_htr as htr
from tests.inference.distributed_cases import (
    DRAWN,
    Breaks,
    Noise,
    Rotten,
    data,
    fails,
    save_results,
    shuffled,
)

LOMAX = htr.Priors({"*.weight": htr.ESD(htr.Lomax(2.5, 0.05))})
LEARNT = htr.Priors(
    {"*.weight": htr.ESD(htr.Lomax(tail_index=htr.Shared("tail", htr.Gamma(9.0, 3.0))))}
)
NORMAL = htr.Priors({"*": htr.Entries(htr.Normal(0.0, 0.5))})


def network(*middle):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 12), *middle, nn.ReLU(), nn.Linear(12, 3))


def fit(priors=LOMAX, *, method=None, train=None, middle=(), members=None, **more):
    """Two epochs of the spectral guide, unless `more` says otherwise."""
    fit_options = ("epochs", "batch_size", "out", "resume", "callbacks", "validation", "progress")
    given = {"epochs": 2, "batch_size": 16, "seed": 5}
    given |= {k: more.pop(k) for k in fit_options if k in more}
    method = htr.SVI(**{"lr": 0.02, "init_scale": 0.3} | more) if method is None else method
    model = htr.BayesianClassifier(network(*middle), priors)
    train = data() if train is None else train
    return htr.fit(model, train, method=method, members=members, **given)


def regression(**more):
    x, y = data()
    net = nn.Sequential(network(), nn.Linear(3, 1))
    nn.init.constant_(net[1].weight, 0.1)
    nn.init.zeros_(net[1].bias)
    model = htr.BayesianModel(net, LOMAX, likelihood=htr.Normal(scale=htr.HalfCauchy(1.0)))
    method = htr.SVI(lr=0.01, init_scale=0.3)
    return htr.fit(model, (x, y.float()), method=method, epochs=2, batch_size=16, seed=5)


# Each has the same result in one process, but for rounding.
SAME = {
    "shared": fit,
    "example": partial(fit, noise="example"),
    "example, single examples": partial(fit, noise="example", batch_size=1, epochs=1),
    "example, few directions": partial(fit, noise="example", noisy_directions=2),
    "particles": partial(fit, particles=2, clip=0.5, kl_warmup=1),
    "learnt": partial(fit, LEARNT, noise="example"),
    "meanfield": partial(fit, NORMAL, guide="meanfield", init_scale=0.05),
    "lowrank": partial(fit, NORMAL, guide="lowrank", init_scale=0.05),
    "learnt noise": regression,
    "loader": lambda: fit(train=shuffled()),
    "patience": partial(fit, validation=data(31, 2), epochs=5, patience=1, lr=0.3),
}


class BreaksAlone(nn.Module):
    """Raises in training in process 1, which has no rank while it fits a member."""

    def forward(self, x):
        if self.training and dist.get_rank() == 1:
            raise ValueError("no member here")
        return x


def state_of(posterior):
    return {**posterior.guide.state_dict(), **posterior.network().state_dict()}


def resumed(out):
    """Stopped after two of four epochs and resumed, against a run that was not."""
    start = partial(fit, noise="example", middle=[nn.Dropout(0.3)], epochs=4)
    start(out=out / "resumed", callbacks=[lambda event: event.epoch == 2])
    found = [start(out=out / "resumed", resume=True), start()]
    return {"posterior": found[0], "whole": found[1].network().state_dict()}


def random_streams(out):
    DRAWN.clear()
    posterior = fit(noise="example", middle=[Noise(), nn.Dropout(0.3)])
    return {"drawn": list(DRAWN), "posterior": posterior}


def mixture(out):
    """Three members over two processes; two of them are the first one's."""
    found = fit(members=3, noise="example", out=out / "mixture")
    again = fit(members=3, noise="example", out=out / "mixture", resume=True)
    members = {}
    for number, member in enumerate(found.members):
        members |= {f"{number} {name}": value for name, value in state_of(member).items()}
    equal = all(
        torch.equal(a, b)
        for one, other in zip(found.members, again.members, strict=True)
        for a, b in zip(state_of(one).values(), state_of(other).values(), strict=True)
    )
    return {"members": members, "equal": equal, "loss": found.history[-1]["loss"]}


OTHERS = {
    "batchnorm": lambda out: fit(train=data(48), middle=[nn.BatchNorm1d(12)]),
    "resumed": resumed,
    "random streams": random_streams,
    "one to two": lambda out: fit(noise="example", epochs=4, out=out / "one to two", resume=True),
    "mixture": mixture,
    "modes": lambda out: {"labels": fit(method=htr.MAP(), members=2).predict(data()[0]).log_probs},
    "too few members": lambda out: fit(members=1),
    "member raises": lambda out: fit(members=2, method=htr.MAP(), middle=[BreaksAlone()]),
    "network raises": lambda out: fit(middle=[Breaks()]),
    "data raise": lambda out: fit(train=torch.utils.data.DataLoader(Rotten(), 16)),
    "callback raises": lambda out: fit(callbacks=[fails]),
    "still in step": lambda out: fit(),
}


def with_state(run):
    """What a case found, with the state of the guide beside the weights."""
    found = run()
    if isinstance(found, htr.Posterior):
        found = {"posterior": found}
    if "posterior" in found and found["posterior"].guide is not None:
        found["guide"] = dict(found["posterior"].guide.state_dict())
    return found


if __name__ == "__main__":
    cases = SAME | {name: partial(run, Path(sys.argv[1])) for name, run in OTHERS.items()}
    save_results({name: partial(with_state, run) for name, run in cases.items()})

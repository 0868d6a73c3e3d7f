"""Fits in several processes: used by the tests here and, as a script, under `torchrun`.

    torchrun --nproc-per-node 2 distributed_cases.py OUT

runs every case in every process and saves what each found in OUT, by case and rank.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch.optim import LBFGS
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

import bayes_htr as htr
from bayes_htr.distributed import process_group, rank, world_size


def data(n=49, seed=1):
    """With batches of 16 the last one has 1 example: none for the second of two processes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator)
    return x, (x[:, :3] + torch.randn(n, 3, generator=generator)).argmax(1)


DRAWN: list[float] = []
"""What `Noise` drew."""


class Noise(nn.Module):
    def forward(self, x):
        if self.training:
            DRAWN.append(float(torch.rand(())))
        return x


class Unused(nn.Sequential):
    """With a parameter that the logits do not depend on."""

    def __init__(self, *layers):
        super().__init__(*layers)
        self.idle = nn.Parameter(torch.ones(3))


class Breaks(nn.Module):
    """Raises at its third training step in process 1."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        if rank() == 1 and self.calls == 3:
            raise ValueError("the third step is too much")
        return x


class Rotten(Dataset):
    """Example 20 cannot be read by process 1."""

    def __len__(self):
        return 49

    def __getitem__(self, index):
        if rank() == 1 and index == 20:
            raise OSError("example 20 is rotten")
        x, y = data()
        return x[index], y[index]


def network(*middle, kind=nn.Sequential):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(nn.Linear(6, 70), *middle, nn.ReLU(), nn.Linear(70, 70), nn.Linear(70, 3))


FLAT = htr.Priors({})
TOP = htr.Priors({"*.weight": htr.MaxEigenvalue(htr.Frechet(2.0, 1.0))}).scaled(20.0)
JOINT = htr.Priors({"0.weight": htr.ESD(htr.Lomax(tail_index=htr.Joint(htr.Gamma(9.0, 3.0))))})


def fit(priors=FLAT, *, train=None, middle=(), kind=nn.Sequential, weights=None, eps=0.0, **more):
    """One epoch of SGD with momentum, unless `more` says otherwise."""
    of_method = ("lr", "optimizer", "clip", "patience", "accumulate", "refresh")
    method = {k: more.pop(k) for k in of_method if k in more}
    net = network(*middle, kind=kind)
    model = htr.BayesianClassifier(net, priors, class_weights=weights, label_smoothing=eps)
    given = {"epochs": 1, "batch_size": 16, "seed": 5} | more
    return htr.fit(model, data() if train is None else train, method=htr.MAP(**method), **given)


def until(epochs, last, shard=False, **more):
    """A run of many epochs that is stopped after the epoch `last`; 0 for not at all.

    Divided weights keep no gradient of the prior from one epoch to the next.
    """
    more |= {"callbacks": [lambda event: event.epoch == last], "refresh": htr.Exact()}
    return fit(TOP, epochs=epochs, shard=bool(shard), **more)


def regression(**more):
    """With a noise that is learnt, whose gradient the processes average."""
    x, y = data()
    net = nn.Sequential(network(), nn.Linear(3, 1))
    nn.init.constant_(net[1].weight, 0.1)
    nn.init.zeros_(net[1].bias)
    likelihood = htr.Normal(scale=htr.HalfCauchy(1.0))
    model = htr.BayesianModel(net, FLAT, likelihood=likelihood)
    given = {"epochs": 2, "batch_size": 16, "seed": 5, "validation": (x, y.float())} | more
    return htr.fit(model, (x, y.float()), method=htr.MAP(lr=0.01), **given)


def shuffled():
    generator = torch.Generator().manual_seed(3)
    return DataLoader(TensorDataset(*data()), 16, shuffle=True, generator=generator)


def dealt(processes=None, number=None):
    """A process's own batches of 8; of 49 examples one is drawn twice to deal as many to each."""
    loaded = TensorDataset(*data())
    sampler = DistributedSampler(loaded, processes, number, seed=7)
    return DataLoader(loaded, 8, sampler=sampler)


# Each has the same result in one process, but for rounding.
SAME = {
    "flat": fit,
    "class weights": partial(fit, weights=[1.0, 2.0, 5.0]),
    "label smoothing": partial(fit, eps=0.3),
    "both": partial(fit, weights=[1.0, 2.0, 5.0], eps=0.3),
    "top": partial(fit, TOP, epochs=2),
    "joint": partial(fit, JOINT, epochs=2),
    "clip": partial(fit, TOP, clip=0.1),
    "lbfgs": partial(fit, optimizer=partial(LBFGS, max_iter=3), lr=0.1),
    "unused": partial(fit, kind=Unused),
    "single examples": partial(fit, batch_size=1),
    "accumulated": partial(fit, TOP, batch_size=8, accumulate=3),
    "learnt noise": regression,
    "loader": lambda: fit(train=shuffled(), epochs=2),
    "patience": partial(fit, validation=data(31, 2), epochs=9, patience=2, lr=0.4),
}


def stopped(out):
    called = []

    def stop(event):
        called.append((rank(), event.epoch))
        return event.epoch == 2

    posterior = fit(epochs=5, callbacks=[stop], progress=False)
    return {"called": called, "epochs": len(posterior.history)}


def random_streams(out):
    DRAWN.clear()
    posterior = fit(middle=[Noise(), nn.Dropout(0.3)], epochs=2)
    return {"drawn": list(DRAWN), "posterior": posterior}


def resumed(out):
    """Stopped after two of four epochs and resumed, against a run that was not."""
    start = partial(fit, TOP, middle=[nn.Dropout(0.3)], epochs=4)
    start(out=out / "resumed", callbacks=[lambda event: event.epoch == 2])
    found = [start(out=out / "resumed", resume=True), start()]
    return {"posterior": found[0], "whole": found[1].network().state_dict()}


def seen_late(run):
    """As on an accelerator, where the losses of many steps are looked at together."""
    with mock.patch("bayes_htr.inference.map_trainer.DistributedMAPTrainer.check_losses"):
        return run()


def fails(event):
    raise KeyError("no such logger")


class UnreadableAtTheEnd(Rotten):
    """Read once, when it is checked; then not any more in process 1."""

    def __init__(self):
        self.reads = 0

    def __getitem__(self, index):
        self.reads += 1
        if rank() == 1 and self.reads > 49:
            raise OSError("gone")
        x, y = data()
        return x[index], y[index]


def not_finite():
    x, y = data()
    x[3] = torch.nan if rank() == 1 else x[3]
    return x, y


def taken(out):
    (out / "taken").mkdir(exist_ok=True)
    (out / "taken" / "thesis.tex").write_text("words")
    return out / "taken"


# Only in several processes.
OTHERS = {
    "dealt": lambda out: fit(train=dealt(), epochs=2),
    "stopped": stopped,
    "random streams": random_streams,
    "batchnorm": lambda out: fit(train=data(48), middle=[nn.BatchNorm1d(70)], epochs=2),
    "wrapped": lambda out: htr.fit(
        htr.BayesianClassifier(nn.parallel.DistributedDataParallel(network()), FLAT),
        data(), method=htr.MAP(), epochs=1, batch_size=16, seed=5,
    ),
    "resumed": resumed,
    "one to two": lambda out: fit(TOP, epochs=4, out=out / "one to two", resume=True),
    "two to one": lambda out: fit(
        TOP, epochs=4, out=out / "two to one", callbacks=[lambda event: event.epoch == 2]
    ),
    "diverges": lambda out: fit(htr.Priors(htr.Entries(htr.Normal(0.0, 1.0))), lr=1e6, epochs=9),
    "network raises": lambda out: fit(middle=[Breaks()]),
    "data raise": lambda out: fit(train=DataLoader(Rotten(), 16)),
    "network raises early": lambda out: seen_late(lambda: fit(middle=[Breaks()])),
    "data raise early": lambda out: seen_late(lambda: fit(train=DataLoader(Rotten(), 16))),
    "bad data": lambda out: fit(train=not_finite()),
    "validation raises": lambda out: fit(validation=DataLoader(UnreadableAtTheEnd(), 49)),
    "callback raises": lambda out: fit(callbacks=[fails]),
    "taken": lambda out: fit(out=taken(out)),
    "other seeds": lambda out: fit(seed=rank()),
    "still in step": lambda out: fit(),
}  # fmt: skip


def result(run):
    """What a case found, as plain data."""
    try:
        found = run()
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}
    found = found if isinstance(found, dict) else {"posterior": found}
    if posterior := found.pop("posterior", None):
        found |= {"net": posterior.network().state_dict(), "history": posterior.history}
        found["hyperparameters"] = posterior.hyperparameters()
    return found


def save_results(cases):
    """Run cases in each of two processes, and save what each found in the folder of the script."""
    torch.set_num_threads(1)
    with process_group("cpu"):
        assert world_size() == 2
        for name, run in cases.items():
            torch.save(result(run), Path(sys.argv[1]) / f"{name}-{rank()}.pt")


if __name__ == "__main__":
    save_results(SAME | {name: partial(run, Path(sys.argv[1])) for name, run in OTHERS.items()})

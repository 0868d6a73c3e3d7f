"""Energies in two processes: used by the tests here and, as a script, under `torchrun`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

import bayes_htr as htr
from bayes_htr.distributed import rank
from bayes_htr.engine import Drift, Every, Exact
from bayes_htr.engine.matrix_energy import MatrixEnergy
from bayes_htr.priors.evaluation import Evaluation
from tests.inference.distributed_cases import data, network, save_results

LAYERS = 6
ESD = htr.Priors({"*.weight": htr.ESD(htr.Lomax(2.0, 1.0))})
MIXED = htr.Priors(
    {
        "0.weight": htr.MaxEigenvalue(htr.Frechet(2.0, 1.0)),
        "2.weight": htr.MaxEigenvalue(htr.Frechet(2.0, 1.0)) & htr.Entries(htr.Normal(0.0, 1.0)),
        "3.weight": htr.ESD(htr.Lomax(tail_index=htr.Joint(htr.Gamma(9.0, 3.0)))),
        "*.bias": htr.Entries(htr.Normal(0.0, 1.0)),
    }
).scaled(20.0)


def equal_layers():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*(nn.Linear(20, 20, bias=False) for _ in range(LAYERS)))


def step(net, energy):
    """One step of gradient descent on the energy alone."""
    net.zero_grad()
    energy.backward(1e-3)
    with torch.no_grad():
        for p in net.parameters():
            p -= p.grad


def alone(refresh, priors=ESD, steps=6, late=False, make=equal_layers):
    """Steps without a likelihood, so that both processes see the same in all of them."""
    net = make()
    energy = htr.bind(priors, net, refresh=refresh)
    energy._scheduler.flags.late = late
    for _ in range(steps):
        step(net, energy)
    return {
        "net": net.state_dict(),
        "refreshes": energy.refreshes,
        "decompositions": energy.decompositions,
    }


def fit(refresh, epochs=1, **more):
    """In float64: a sum in another order must not move a drift across its tolerance."""
    model = htr.BayesianClassifier(network().double(), MIXED)
    given = {"batch_size": 16, "seed": 5} | more
    return htr.fit(model, data(), method=htr.MAP(refresh=refresh), epochs=epochs, **given)


# Each has the same result in one process, but for rounding.
SAME = {
    "exact": partial(alone, Exact()),
    "every": partial(alone, Every(2)),
    "drift": partial(alone, Drift(1e-3, 2), MIXED, 12, make=network),
    "drift late": partial(alone, Drift(1e-3, 2), MIXED, 12, True, network),
    "fit every": partial(fit, Every(2)),
    "fit drift": partial(fit, Drift(1e-2), epochs=3),
}


def communication():
    """The collectives of each call of an energy whose weights stay."""
    net = equal_layers()
    energy = htr.bind(ESD, net, refresh=Drift(0.1, 4))
    counts = []
    for _ in range(8):
        with (
            mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as reduced,
            mock.patch.object(dist, "broadcast", wraps=dist.broadcast) as sent,
            mock.patch.object(dist, "all_gather_object", wraps=dist.all_gather_object) as told,
        ):
            energy.backward()
        counts.append([reduced.call_count, sent.call_count, told.call_count])
    return {"counts": counts}


def bad_matrix():
    """Not finite in process 1, which owns it."""
    net = equal_layers()
    energy = htr.bind(ESD, net, refresh=Exact())
    energy.backward()
    if rank() == 1:
        with torch.no_grad():
            net[1].weight[0, 3] = torch.nan
    energy.backward()
    return {}


def out_of_memory():
    """An error that says nothing of the matrix."""
    energy = htr.bind(ESD, equal_layers(), refresh=Exact())
    with mock.patch.object(MatrixEnergy, "evaluate", side_effect=MemoryError("no room")) as broken:
        if rank() == 0:
            broken.side_effect = None
            broken.return_value = Evaluation(torch.zeros(()), 0.0, None, None, {}, {})
        energy.backward()
    return {}


def other_weights(share=True):
    net = equal_layers()
    with torch.no_grad():
        net[3].weight += rank()
    energy = htr.bind(ESD, net, refresh=Exact(), share=share)
    energy.backward()
    return {"decompositions": energy.decompositions}


def sharded():
    """What is said of weights of which each process has a part, where they cannot be used."""
    mesh = init_device_mesh("cpu", (2,))
    net, other = equal_layers(), equal_layers()
    energies = [htr.bind(ESD, net, share=share) for share in (True, False)]
    fully_shard(net, mesh=mesh)
    older = FullyShardedDataParallel(other, device_id=torch.device("cpu"))
    calls = [
        *energies,
        *(energy.backward for energy in energies),
        *(partial(htr.bind, ESD, older, share=share) for share in (True, False)),
        *(partial(call, n) for n in (net, older) for call in (ESD.explain, htr.matrices_of)),
        *(partial(htr.analyze, n, min_size=2) for n in (net, older)),
    ]
    messages = []
    for call in calls:
        try:
            call()
            messages.append("nothing")
        except htr.SpectrumError as error:
            messages.append(str(error))
    try:
        htr.bind(ESD, net, share=False)
    except htr.PriorError as error:
        alone = str(error)
    return {"messages": messages, "alone": alone}


def resumed(out):
    """Stopped after two of four epochs and resumed, against a run that was not."""
    fit(Drift(1e-2), epochs=4, out=out / "resumed", callbacks=[lambda event: event.epoch == 2])
    again = fit(Drift(1e-2), epochs=4, out=out / "resumed", resume=True)
    whole = fit(Drift(1e-2), epochs=4)
    return {"posterior": again, "whole": whole.network().state_dict()}


def half(out):
    return fit(Drift(1e-2), epochs=4, out=out, callbacks=[lambda event: event.epoch == 2])


OTHERS = {
    "communication": communication,
    "bad matrix": bad_matrix,
    "out of memory": out_of_memory,
    "other weights": other_weights,
    "sharded": sharded,
    "not shared": partial(other_weights, share=False),
    "in step": partial(alone, Exact(), steps=1),
}

if __name__ == "__main__":
    out = Path(sys.argv[1])
    save_results(
        SAME
        | OTHERS
        | {"resumed": partial(resumed, out), "two to one": partial(half, out / "two to one")}
        | {"one to two": partial(fit, Drift(1e-2), 4, out=out / "one to two", resume=True)}
    )

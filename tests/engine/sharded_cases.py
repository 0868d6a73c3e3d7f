"""Energies of sharded networks: what each of several processes computes, and what one does.

As a script it is a process of `torch.multiprocessing`, which saves what its cases find.
"""

from __future__ import annotations

import os
import sys
import traceback
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dist_checkpoint
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import bayes_htr as htr

LOMAX = htr.ESD(htr.Lomax(2.0, 1.0))
TOP = htr.MaxEigenvalue(htr.Frechet(2.0, 1.0))
LAWS = {
    "log det": LOMAX,
    "leading": TOP,
    "all": htr.ESD(htr.Gamma(2.0, 1.0)),
    "tail": htr.ESD(htr.Powerlaw(htr.Hill(0.5)), tail=0.5),
    "singular values": htr.SingularValues(htr.HalfCauchy(1.0)),
    "stable rank": htr.StableRank(htr.Gamma(2.0, 1.0)),
    "both": TOP & LOMAX & htr.Entries(htr.Normal(0.0, 1.0)),
    "entries": htr.Entries(htr.Normal(0.0, 1.0)),
    "hyper": htr.ESD(htr.Lomax(tail_index=htr.Joint(htr.Gamma(9.0, 3.0)))),
    "integrated": htr.ESD(htr.Lomax(tail_index=htr.Gamma(9.0, 3.0))),
}
POLICIES = {"exact": htr.Exact(), "drift": htr.Drift(0.02, 2), "every": htr.Every(3)}


class Layers(nn.Module):
    """Every kind of layer, with sides that two and four do not divide."""

    def __init__(self):
        super().__init__()
        self.tall = nn.Linear(70, 157)
        self.wide = nn.Linear(29, 6)
        self.square = nn.Linear(11, 11)
        self.few = nn.Linear(9, 3)
        self.conv = nn.Conv2d(3, 41, 3)
        self.small = nn.Conv1d(7, 5, 3)
        self.back = nn.ConvTranspose2d(6, 5, 2)
        self.words = nn.Embedding(23, 5)
        self.attention = nn.MultiheadAttention(10, 2)
        self.memory = nn.LSTM(6, 7)
        self.experts = Experts()


class Experts(nn.Module):
    num_experts = 3

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 8, 5) / 3)


def layers(dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Layers().to(dtype)


def priors(name):
    vectors = {"*.bias*": htr.Entries(htr.Normal(0.0, 2.0))} if name in ("both", "entries") else {}
    return htr.Priors(vectors | {"*": LAWS[name]})


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.detach().clone()


def shard_rows(net):
    fully_shard(net, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    return net


def trained(name, policy, dtype=torch.float64, steps=12, shard=None, make=layers, lr=0.02):
    """Steps of SGD with momentum on the energy alone."""
    net = make(dtype)
    net = net if shard is None else shard(net)
    energy = htr.bind(priors(name), net, refresh=POLICIES[policy])
    learnt = [*net.parameters(), *energy.parameters()]
    optimizer = torch.optim.SGD(learnt, lr=lr, momentum=0.5)
    values, first = [], {}
    for step in range(steps):
        optimizer.zero_grad()
        values.append(float(energy.backward(0.5)))
        if step == 0:
            first = {n: whole(p.grad) for n, p in net.named_parameters() if p.grad is not None}
        optimizer.step()
    with torch.no_grad():
        exact = float(energy())
    return {
        "first": first,
        "net": {n: whole(p) for n, p in net.named_parameters()},
        "values": values,
        "exact": exact,
        "refreshes": energy.refreshes,
        "hyper": [float(u.detach()) for u in energy.parameters()],
        "decompositions": energy.decompositions,
    }


def spread(net, mesh, placements, others):
    """Parameters of two or more axes have the placements, and vectors the others."""
    for module in net.modules():
        for name, p in list(module._parameters.items()):
            places = placements if p is not None and p.ndim > 1 else others
            if p is not None:
                module._parameters[name] = nn.Parameter(distribute_tensor(p.detach(), mesh, places))
    return net


def by_columns(net):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return spread(net, mesh, [Shard(1)], [Replicate()])


def replicated_groups(net):
    fully_shard(net, mesh=init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "parts")))
    return net


def tensor_parallel(net, mesh=None):
    """Column style for the first layers, and row style for the others."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),)) if mesh is None else mesh
    plan = {"tall": ColwiseParallel(), "wide": RowwiseParallel(), "square": RowwiseParallel()}
    return parallelize_module(net, mesh, plan | {"few": ColwiseParallel()})


def two_dimensional(net):
    """As FSDP and tensor parallelism are composed."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    fully_shard(tensor_parallel(net, mesh["tensor"]), mesh=mesh["data"])
    return net


def in_blocks(net):
    """Each process has a block, and vectors are replicas."""
    mesh = init_device_mesh("cpu", (2, 2))
    return spread(net, mesh, [Shard(0), Shard(1)], [Replicate(), Replicate()])


LAYOUTS = {
    "columns": by_columns,
    "replicas": replicated_groups,
    "tensor": tensor_parallel,
    "two": two_dimensional,
    "blocks": in_blocks,
}


def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, 9, generator=generator, dtype=torch.float64)
    return x, torch.arange(20) % 3


def classifier(dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(9, 33), nn.Tanh(), nn.Linear(33, 30), nn.Linear(30, 3))
    return net.to(dtype)


def blocks(net, **options):
    """Each layer on its own, as is usual, and the rest with the root."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    fully_shard(net[0], mesh=mesh, **options)
    return fully_shard(net, mesh=mesh, **options)


def fitted(shard=None, summed=False, steps=50, policy="drift", out=None, state=None, **options):
    """Training on the same batch in every process; the energy is a summand of the loss or not.

    Args:
        shard: Whether the network is sharded.
        summed: Whether the energy is a summand of the loss.
        steps: The number of steps.
        policy: The refresh policy.
        out: A folder into which the state is written.
        state: A folder from which it is read.
        options: The options of `fully_shard`.
    """
    net = classifier() if not options else classifier(torch.float32)
    net = net if shard is None else blocks(net, **options)
    laws = htr.Priors({"0.weight": TOP, "2.weight": LOMAX, "*.bias": LAWS["entries"]}).scaled(5.0)
    energy = htr.bind(laws, net, refresh=POLICIES[policy])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    saved = {"net": net, "energy": energy}
    if state is not None:
        load_together(saved, state)
    x, y = data()
    for _ in range(steps):
        optimizer.zero_grad()
        logits = net(x.to(next(iter(net.parameters())).dtype))
        loss = nn.functional.cross_entropy(logits.double(), y)
        if summed:
            (loss + energy() / len(x)).backward()
        else:
            loss.backward()
            energy.backward(1 / len(x))
        optimizer.step()
    if out is not None:
        dist_checkpoint.save(saved, checkpoint_id=str(out))
    return {
        "net": {n: whole(p) for n, p in net.named_parameters()},
        "dtypes": sorted({str(p.dtype) for p in net.parameters()}),
        "keys": sorted(energy.state_dict()),
        "refreshes": energy.refreshes,
    }


def load_together(saved, folder):
    alone = not dist.is_initialized()
    dist_checkpoint.load(saved, checkpoint_id=str(folder), no_dist=alone)


def mixed_precision(shard):
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return fitted(shard, mp_policy=policy, steps=5)


def offloaded(shard):
    return fitted(shard, offload_policy=CPUOffloadPolicy(pin_memory=False), steps=5)


def saved(shard):
    """A run of eight steps, and another that goes on from what was saved after five."""
    folder = Path(os.environ["SHARDED_OUT"]) / "checkpoint"
    fitted(shard, steps=5, policy="exact", out=folder)
    whole_run = fitted(shard, steps=8, policy="exact")
    return whole_run | {"loaded": fitted(shard, steps=3, policy="exact", state=folder)["net"]}


def killed(shard):
    """Process 1 ends between two calls, and the other learns of it at the next exchange."""
    energy = htr.bind(htr.Priors({"*.weight": LOMAX}), shard(classifier()))
    energy.backward()
    if dist.get_rank() == 1:
        os._exit(0)
    energy.invalidate()
    energy.backward()
    return {}


def analyzed(shard=None):
    """The rows of a report of a sharded network, and of its plain weights; others of `Layers`."""
    plain = layers()
    given = {"min_size": 5, "bootstrap": 10, "share": shard is not None, "progress": False}
    weights = {name: p.detach().clone() for name, p in plain.named_parameters()}
    reports = [
        htr.analyze(source, **given) for source in (weights, shard(plain) if shard else plain)
    ]
    return {"rows": [repr(report.rows) for report in reports]}


def refused(shard):
    """The errors about what is not supported, and about an entry that is not finite."""
    from torch.distributed.tensor import DTensor, Partial

    both = LOMAX & htr.Entries(htr.Normal(0.0, 1.0))
    integrated = htr.Entries(htr.Lomax(tail_index=htr.Gamma(9.0, 3.0)))
    net = shard(classifier())
    partly = classifier()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    local = partly[0].weight.detach()
    partly[0].weight = nn.Parameter(DTensor.from_local(local, mesh, [Partial()]))
    energy = htr.bind(htr.Priors({"*.weight": LOMAX}), net)
    given = {"0.weight": torch.zeros(33, 9, dtype=torch.float64)}

    def broken():
        if dist.get_rank() == 2:
            with torch.no_grad():
                net[0].weight.to_local()[0, 0] = torch.nan
        energy()

    messages = []
    for call in (
        lambda: htr.bind(htr.Priors({"0.weight": both.above(3.0)}), net),
        lambda: htr.bind(htr.Priors({"0.weight": integrated}), net),
        lambda: htr.bind(htr.Priors({"0.weight": LOMAX}), partly),
        lambda: energy.at(given),
        broken,
    ):
        try:
            call()
        except (htr.PriorError, htr.SpectrumError) as error:
            messages.append(str(error))
    return {"messages": messages}


CASES = {
    f"{name} {policy}": partial(trained, name, policy)
    for name in LAWS
    for policy in POLICIES
    if policy == "drift" or name in ("log det", "leading", "both")
}
CASES |= {"float32": partial(trained, "both", "every", torch.float32)}
CASES |= {
    "fit": fitted,
    "fit summed": partial(fitted, summed=True),
    "fit every": partial(fitted, policy="every"),
}
OTHERS: dict = {
    "mixed": mixed_precision,
    "offloaded": offloaded,
    "saved": saved,
    "refused": refused,
    "killed": killed,
}
OTHERS |= {
    f"{layout} {name}": partial(trained, *name.split("-"), shard=shard)
    for layout, shard in LAYOUTS.items()
    for name in ("both-exact", "leading-drift", "all-drift")
}


def main(rank, processes, out, names, cases):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": str(rank), "SHARDED_OUT": str(out)}
    torch.set_num_threads(1)
    store = dist.FileStore(str(out / f"store-{os.getppid()}"), processes)
    timeout = timedelta(seconds=60)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=processes, timeout=timeout)
    for name in names or cases:
        try:
            given = {} if "shard" in getattr(cases[name], "keywords", {}) else {"shard": shard_rows}
            found = cases[name](**given)
        except Exception as error:
            found = {"error": type(error).__name__, "message": str(error)}
            traceback.print_exc()
        torch.save(found, out / f"{name}-{rank}.pt")
        if found.get("error") not in (None, "PriorError", "SpectrumError"):
            break  # the others cannot go on
    dist.destroy_process_group()


if __name__ == "__main__":
    folder, processes = Path(sys.argv[1]), int(sys.argv[2])
    arguments = (processes, folder, sys.argv[3:], CASES | OTHERS)
    mp.start_processes(main, arguments, processes, start_method="fork")  # imports once

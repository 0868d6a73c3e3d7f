"""The members of a mixture: where each starts, and how they are fitted and kept.

Each member is a fit of its own, with its own initial weights, its own order of the batches and its
own run folder. They are fitted one after another, several at a time in processes of this machine,
or each by one of the processes of `torchrun`.
"""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from bayes_htr._checks import whole_number
from bayes_htr._parallel import Workers, packed, run_jobs
from bayes_htr._torch import isolated_randomness
from bayes_htr.distributed import (
    alone,
    check_same,
    fail_together,
    gathered,
    patient_group,
    rank,
    run_on_rank0,
    world_size,
)
from bayes_htr.inference import NUTS, Callback, Data, Method, RunFolder
from bayes_htr.inference.callbacks import StepCallback
from bayes_htr.inference.data import generators_of
from bayes_htr.inference.problem import describe_fit
from bayes_htr.inference.run_folder import MEMBERS
from bayes_htr.models import BayesianModel
from bayes_htr.posterior import Posterior, PosteriorMixture
from bayes_htr.posterior.mixture import member_folder
from bayes_htr.spectra import parameters_of

_RESETS = ("reset_parameters", "_reset_parameters")
"""The methods by which PyTorch's layers initialise their parameters; the second one is that of
`nn.MultiheadAttention`."""


@dataclass(frozen=True)
class Member:
    """The fit of one member.

    Attributes:
        number: The number of the member, from 0.
        fit: `htr.fit`.
        model: The model, its network with the weights from which the member starts.
        train: The training data.
        callbacks: The caller's callbacks, which are called after every epoch.
        options: The other arguments of `fit`, those of this member among them.
    """

    number: int
    fit: Callable[..., Posterior]
    model: BayesianModel
    train: Data
    callbacks: Sequence[Callback]
    options: Mapping[str, Any]

    def run(self, *, progress: bool, on_epoch: Callable[[], None]) -> Posterior:
        """Fit the member.

        Args:
            progress: As in `htr.fit`.
            on_epoch: Called without arguments after every epoch.
        """
        if self.number and isinstance(self.train, DataLoader):
            for generator in generators_of(self.train):
                generator.manual_seed(self.options["seed"])
        callbacks = [*self.callbacks, lambda event: on_epoch()]
        return self.fit(
            self.model, self.train, callbacks=callbacks, progress=progress, **self.options
        )


def fit_members(
    fit: Callable[..., Posterior],
    model: BayesianModel,
    train: Data,
    members: int | Sequence[nn.Module],
    *,
    options: Mapping[str, Any],
    processes: int,
    out: str | PathLike[str] | None,
    callbacks: Sequence[Callback],
    progress: bool | None,
) -> PosteriorMixture:
    """Fit the members of a mixture.

    Args:
        fit: `htr.fit`, which fits each of them.
        model: As in `htr.fit`.
        train: As in `htr.fit`.
        members: The number of members, or a network with initial weights for each of them.
        options: The other arguments of `htr.fit` by name. The seed is that of the first member,
            from which those of the others follow, and `init` a mixture that they start from.
        processes: How many members are fitted at a time, each in a process of its own.
        out: The folder of the mixture.
        callbacks: Callables that are called after each epoch of every member, in this process.
        progress: Whether to show one progress bar over the epochs of all members.

    Raises:
        ValueError: A setting cannot be combined with members, or a network cannot be initialised
            anew.
        ProcessError: A process of a member ended without a result.
    """
    with fail_together():
        processes = whole_number(processes, "processes", at_least=1)
        method, epochs, threads = options["method"], options["epochs"], options["threads"]
        _refuse(method, callbacks, processes)
        starts = _starts(model, members, options["init"], options["seed"])
        config = {MEMBERS: len(starts)} | describe_fit(
            method, model, epochs=epochs, seed=options["seed"], metadata=options["metadata"]
        )
    folder = None if out is None else RunFolder(out)
    workers = Workers(min(processes, len(starts)), _threads_of_each(threads, processes))
    jobs: list[Member] = []
    for number, (net, start) in enumerate(starts):
        own: dict[str, Any] = {"seed": member_seed(options["seed"], number), "init": start}
        own["out"] = None if folder is None else member_folder(folder.path, number)
        own["threads"] = threads if workers.count == 1 else workers.threads
        of_net = BayesianModel(net, model.priors, likelihood=model.likelihood)
        jobs.append(Member(number, fit, of_net, train, callbacks, {**options, **own}))
    check_same(config | {"out": str(out)})
    try:
        if folder is not None:
            run_on_rank0(partial(folder.start, config, resume=options["resume"]))
        if world_size() > 1:
            found = _fitted_by_ranks(jobs, epochs, progress)
        else:
            found = _fitted(jobs, workers, epochs, progress)
        described = {key: value for key, value in config.items() if key != "priors"}
        mixture = PosteriorMixture(found, config=described)
        if folder is not None:
            run_on_rank0(partial(mixture.write, folder))
    except BaseException:
        if folder is not None and rank() == 0 and not (folder.path / MEMBERS).exists():
            folder.remove()  # no member has come so far that it could be resumed
        raise
    finally:
        if folder is not None:
            folder.release()
    return mixture


def member_seed(seed: int, number: int) -> int:
    """Return the seed of a member; the first one has that of the mixture.

    The others are drawn from both numbers, so that mixtures with neighbouring seeds have no member
    in common.
    """
    return seed if number == 0 else random.Random(f"{seed} {number}").getrandbits(62)


def reinitialised(net: nn.Module, seed: int) -> nn.Module:
    """Return a copy of a network whose layers have been initialised anew.

    Each layer with trainable parameters does it by its own `reset_parameters`, which all layers of
    PyTorch have. Frozen parameters keep their values.

    Args:
        net: The network, which is not changed.
        seed: The seed of PyTorch's global generators meanwhile.

    Raises:
        ValueError: A layer cannot be initialised anew, or its weights did not change.
    """
    net = copy.deepcopy(net)
    frozen = [(p, p.detach().clone()) for p in net.parameters() if not p.requires_grad]
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    with isolated_randomness(), torch.no_grad():
        torch.manual_seed(seed)
        for path, module in net.named_modules():
            own = [n for n, p in module.named_parameters(recurse=False) if p.requires_grad]
            if not own:
                continue
            reset = next((getattr(module, n) for n in _RESETS if hasattr(module, n)), None)
            if reset is None:
                raise _not_reinitialised(
                    f"{path or 'the network'} ({type(module).__name__}) has the parameters "
                    f"{', '.join(own)} and no reset_parameters()"
                )
            reset()
        for parameter, value in frozen:
            parameter.copy_(value)
    for name, parameter in net.named_parameters():
        if parameter.requires_grad and parameter.ndim > 1 and parameter.equal(before[name]):
            raise _not_reinitialised(f"reset_parameters() of its layer leaves {name} as it was")
    return net


def _not_reinitialised(reason: str) -> ValueError:
    return ValueError(
        f"a member of a mixture needs initial weights of its own, and {reason}; pass networks, as "
        "members=[make_network(seed) for seed in range(3)]"
    )


def _refuse(method: Method, callbacks: Sequence[Callback], processes: int) -> None:
    """Raise `ValueError` for arguments that cannot be combined with members."""
    if isinstance(method, NUTS):
        raise ValueError(
            "NUTS takes no members: it samples one posterior, and more chains are chains= of "
            "htr.NUTS, which tells by R-hat whether they agree"
        )
    for callback in callbacks:
        if isinstance(callback, StepCallback):
            raise ValueError(
                f"{callback!r} follows the steps of one run; fit each member with one of its own, "
                "and join the members by htr.PosteriorMixture(posteriors)"
            )
    if callbacks and (processes > 1 or world_size() > 1):
        raise ValueError(
            "callbacks are called in this process, and several processes share out the members; "
            "fit the members in one process, or leave the callbacks out"
        )
    if processes > 1 and world_size() > 1:
        raise ValueError(
            f"processes={processes} starts processes, and there are {world_size()} already, which "
            "divide the members between them; leave processes= out"
        )


def _starts(
    model: BayesianModel,
    members: int | Sequence[nn.Module],
    init: Posterior | None,
    seed: int,
) -> list[tuple[nn.Module, Posterior | None]]:
    """Return for each member the network with its initial weights, or the posterior to start from.

    Raises:
        ValueError: There are no members, the networks differ, or `init` has other members.
    """
    if isinstance(members, int):
        count = whole_number(members, "members", at_least=1)
    elif isinstance(members, Sequence) and all(isinstance(m, nn.Module) for m in members):
        count = len(members)
    else:
        count = 0
    if not count:
        raise ValueError(
            f"members={members!r} must be a whole number from 1 on, or a sequence of networks"
        )
    if init is not None:
        there = len(init.members) if isinstance(init, PosteriorMixture) else 1
        if there != count or not isinstance(members, int):
            raise ValueError(
                f"init has {there} members, and members={members!r}; members start from those of a "
                "mixture of as many, or without init from weights of their own"
            )
        each = init.members if isinstance(init, PosteriorMixture) else [init]
        return [(model.net, member) for member in each]
    if isinstance(members, int):
        others = [reinitialised(model.net, member_seed(seed, i)) for i in range(1, count)]
        return [(net, None) for net in [model.net, *others]]
    shapes = {p.name: p.tensor.shape for p in parameters_of(model.net)}
    for number, net in enumerate(members):
        if {p.name: p.tensor.shape for p in parameters_of(net)} != shapes:
            raise ValueError(f"members: network {number} has other parameters than the model's")
    return [(net, None) for net in members]


def _threads_of_each(threads: int | None, processes: int) -> int:
    """Return the number of threads of each of several processes."""
    if threads is not None:
        return whole_number(threads, "threads", at_least=1, below=2**15)
    return max(1, torch.get_num_threads() // processes)


def _fitted(
    jobs: Sequence[Member], workers: Workers, epochs: int, progress: bool | None
) -> list[Posterior]:
    """Fit members in this process, or several at a time in processes of their own.

    Raises:
        ValueError: The model or the data cannot be sent to other processes.
    """
    total = epochs * len(jobs)
    if workers.count == 1:
        return run_jobs(Member.run, jobs, workers, epochs=total, progress=progress)
    sent = [packed(job) for job in jobs]
    found = run_jobs(_run_packed, sent, workers, epochs=total, progress=progress)
    return [pickle.loads(each) for each in found]


def _fitted_by_ranks(jobs: Sequence[Member], epochs: int, progress: bool | None) -> list[Posterior]:
    """Fit each member in one of several processes, and return all posteriors in every process.

    Raises:
        ValueError: There are more processes than members, or the loader divides the examples.
        ProcessError: Another process has failed.
    """
    train, count = jobs[0].train, world_size()
    if count > len(jobs):
        raise ValueError(
            f"{len(jobs)} members for {count} processes leave some without work; start at most as "
            "many processes as members"
        )
    if isinstance(train, DataLoader) and isinstance(train.sampler, DistributedSampler):
        raise ValueError(
            "each member trains on all data, and the loader's DistributedSampler gives each "
            "process a part of them; take another sampler"
        )
    own, progress = jobs[rank() :: count], progress if rank() == 0 else False
    with patient_group() as group:
        with fail_together(group):
            with alone():
                found = _fitted(own, Workers(1, torch.get_num_threads()), epochs, progress)
            sent = [packed(each.to("cpu")) for each in found]
        every = gathered(sent, group)
    dealt = [pickle.loads(every[i % count][i // count]) for i in range(len(jobs))]
    return [each.to(own[0].options["device"]) for each in dealt]


def _run_packed(job: bytes, *, progress: bool, on_epoch: Callable[[], None]) -> bytes:
    member: Member = pickle.loads(job)
    return packed(member.run(progress=progress, on_epoch=on_epoch))

"""`fit` and `load`: from a model and data to a posterior, and from a folder to a posterior."""

from __future__ import annotations

import copy
import dataclasses
import json
import operator
from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any

import torch
from torch import nn

from bayes_htr._torch import usable_device
from bayes_htr._version import __version__
from bayes_htr.inference import (
    EPOCHS,
    NUTS,
    Batches,
    Callback,
    Data,
    Fitted,
    Method,
    Problem,
    RunFolder,
    default_method,
)
from bayes_htr.inference.distributed import (
    check_same,
    from_main,
    own_device,
    together,
)
from bayes_htr.models import BayesianClassifier
from bayes_htr.posterior import Posterior
from bayes_htr.processes import world_size
from bayes_htr.spectra import parameters_of
from bayes_htr.spectra.matrices import check_finite


def fit(
    model: BayesianClassifier,
    train: Data,
    *,
    method: Method | None = None,
    epochs: int | None = None,
    batch_size: int = 128,
    validation: Data | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    init: Posterior | None = None,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Posterior:
    """Train a Bayesian classifier.

    Training starts from the weights of `model.net` (or `init`) on a copy: the network itself and
    the global random state are left as they were. Where `torch.distributed` is initialised with
    more than one process, all of them train together; see `docs/distributed.md`.

    Args:
        model: The network with its priors.
        train: A `DataLoader`, taken as it is, or `(X, y)` of tensors or arrays, `X` of shape
            `(N, ...)` and `y` of `(N,)` integers.
        method: How: `MAP(...)`, `SVI(...)` or `NUTS(...)`. By default the posterior is found by
            `SVI(guide="spectral", lr=0.006, init_scale=0.3, noise="example")`, with
            `noise="shared"` for a network with batch normalisation.
        epochs: How many in all, 30 by default; a resumed run goes on to this number. `NUTS` has
            none: 0.
        batch_size: Examples per batch of `(X, y)`, of all processes together; the last batch may
            be shorter.
        validation: Data on which NLL and accuracy are measured after each epoch.
        seed: Of the order of `(X, y)`, shuffled by `torch.Generator().manual_seed(seed)` in a
            `DataLoader`, and of the global generators during the run.
        device: Where to train; `"auto"` for an accelerator if there is one. By default
            where the network is.
        init: A posterior to start from.
        out: A new folder for configuration, checkpoints, metrics, weights and spectra.
        resume: Go on with the run in `out`, if there is one; else start it.
        callbacks: Called after each epoch with an `EpochEvent`, of several processes in the first;
            returning `True` ends training.
        progress: Whether to show a progress bar; by default on a terminal.
        metadata: Plain data to keep in the run folder's configuration, such as the name of the
            data set; a run resumes only with the same.

    Returns:
        The posterior.

    Raises:
        DataError: Data that cannot be trained on, or that do not fit the network.
        PriorError: Priors that do not fit the network.
        SpectrumError: Weights that are not finite, or that a law cannot score at the start.
        DivergenceError: Training left the finite numbers.
        OutputError: `out` cannot be written, or already holds something.
        CheckpointError: A run to resume that is another one, or cannot be read.
        ProcessError: Another process of several failed.
        ValueError: A setting out of range, or of several processes not the same in all.
    """
    with together():
        _check_types(model, method, init, callbacks)
        method = default_method(model.net) if method is None else method
        if epochs is None:
            epochs = 0 if isinstance(method, NUTS) else EPOCHS
        epochs = _whole(epochs, "epochs", below=2**31)
        seed = _whole(seed, "seed", below=2**63)
        batch_size = _whole(batch_size, "batch_size", below=2**31)
        if resume and out is None:
            raise ValueError("resume=True needs out=, the folder of the run")
        net = _start(model, init)
        first = next(net.parameters(), torch.zeros(()))
        target = _device(device, first.device)
        net.to(target)
        where: dict[str, Any] = {"device": target, "dtype": first.dtype}
        batches = Batches(train, batch_size=batch_size, seed=seed, name="train", **where)
        measured = None
        if validation is not None:
            measured = Batches(validation, batch_size=1024, name="validation", **where)
            measured.check_network(net)
        model.likelihood.check_classes(batches.check_network(net))
        problem = Problem(
            model=model,
            net=net,
            train=batches,
            validation=measured,
            epochs=epochs,
            seed=seed,
            callbacks=callbacks,
            progress=progress,
            hyperparameters={} if init is None else init.unconstrained_hyperparameters(),
        )
        method.check(problem)
        config = _config(model, method, problem, metadata)
        lengths = [len(b) for b in (batches, measured) if b is not None]
    check_same(config | {"out": str(out), "the number of batches": lengths})
    if out is not None:
        folder = RunFolder(out)
        checkpoint = from_main(partial(folder.start, config, resume=resume))
        problem = dataclasses.replace(problem, folder=folder, checkpoint=checkpoint)
    with torch.enable_grad():
        posterior = _posterior(model, method.run(problem), config)
    if problem.folder is not None:
        from_main(partial(posterior.write, problem.folder))
    return posterior


def load(path: str | PathLike[str], net: nn.Module) -> Posterior:
    """Read a posterior that `Posterior.save` or `fit(..., out=)` wrote.

    Only JSON and safetensors files are read: nothing in them is run.

    Args:
        path: The folder.
        net: A network of the same architecture; it is copied, not changed.

    Raises:
        CheckpointError: No finished run, files that are truncated or foreign, or another network.
    """
    return Posterior.load(path, net)


def _start(model: BayesianClassifier, init: Posterior | None) -> nn.Module:
    """A copy of the network, with the weights that training starts from."""
    net = _copied(model.net)
    if init is not None:
        try:
            net.load_state_dict(init.network().state_dict())
        except RuntimeError as error:
            raise ValueError(f"init is the posterior of another network: {error}") from error
    for p in parameters_of(net):
        check_finite(p.tensor.detach(), p.name)
    return net


def _device(device: str | torch.device | None, present: torch.device) -> torch.device:
    if device is None:
        return present
    if device != "auto":
        return usable_device(device)
    if world_size() > 1:
        return own_device("auto")
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    return torch.device("cpu")


def _check_types(model: Any, method: Any, init: Any, callbacks: Any) -> None:
    if not isinstance(model, BayesianClassifier):
        raise ValueError(f"model={model!r} must be a BayesianClassifier(net, priors)")
    if method is not None and (isinstance(method, type) or not hasattr(method, "describe")):
        raise ValueError(f"method={method!r} must be an inference method, such as MAP()")
    if init is not None and not isinstance(init, Posterior):
        raise ValueError(f"init={init!r} must be a Posterior")
    for callback in callbacks if isinstance(callbacks, Sequence) else [callbacks]:
        if not isinstance(callbacks, Sequence) or not callable(callback):
            raise ValueError(f"callbacks={callbacks!r} must be a sequence of callables")


def _whole(value: Any, name: str, *, below: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if isinstance(value, bool) or not 0 <= number < below:
        raise ValueError(f"{name}={value!r} must be a whole number, 0 or more")
    return number


def _copied(net: nn.Module) -> nn.Module:
    if world_size() > 1 and isinstance(net, nn.parallel.DistributedDataParallel):
        net = net.module  # the copy is given a wrapper of its own
    try:
        copied = copy.deepcopy(net)
    except RuntimeError as error:
        raise ValueError(
            f"{type(net).__name__} cannot be copied ({error}); with the old weight_norm, use "
            "torch.nn.utils.parametrizations.weight_norm"
        ) from error
    for name, value in copied.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(
                f"{name!r} in the network's state_dict is a {type(value).__name__}, and only "
                "tensors can be saved; leave it out of get_extra_state"
            )
    return copied


def _config(
    model: BayesianClassifier,
    method: Method,
    problem: Problem,
    metadata: Mapping[str, Any] | None,
) -> dict[str, Any]:
    config = {
        "version": __version__,
        "method": method.describe(),
        "priors": model.priors.to_dict(),
        "epochs": problem.epochs,
        "train": problem.train.fingerprint,
        "seed": problem.seed,
        "num_data": problem.train.num_data,
        **model.likelihood.to_dict(),
        "network": type(model.net).__name__,
        "parameters": {p.name: list(p.tensor.shape) for p in parameters_of(model.net)},
        "metadata": dict(metadata or {}),
    }
    try:
        json.dumps(config)
    except TypeError as error:
        raise ValueError(f"metadata={metadata!r} must be plain data: {error}") from error
    return config


def _posterior(model: BayesianClassifier, fitted: Fitted, config: dict[str, Any]) -> Posterior:
    config = {k: v for k, v in config.items() if k != "priors"}
    return Posterior(
        fitted.net,
        model.priors,
        guide=fitted.guide,
        hyperparameters=fitted.hyperparameters,
        history=fitted.history,
        config=config,
    )

"""`fit` finds a posterior from a model and data; `load` reads one from a run folder."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bayes_htr._checks import number, shown, whole_number
from bayes_htr._threads import exclusive, restored_threads, suitable_threads
from bayes_htr._torch import input_dtype, usable_device
from bayes_htr.distributed import check_same, fail_together, own_device, run_on_rank0, world_size
from bayes_htr.engine.autograd import has_hooks
from bayes_htr.inference import (
    MAP,
    NUTS,
    Batches,
    Callback,
    Data,
    Method,
    Problem,
    Run,
    RunFolder,
)
from bayes_htr.inference.defaults import method_and_epochs
from bayes_htr.inference.problem import describe_fit
from bayes_htr.members import fit_members
from bayes_htr.models import BayesianModel, Likelihood
from bayes_htr.posterior import Posterior, PosteriorMixture
from bayes_htr.posterior.mixture import read_posterior
from bayes_htr.priors.law import Law
from bayes_htr.spectra import parameters_of
from bayes_htr.spectra.matrices import check_finite
from bayes_htr.tuning.held_out import hold_out
from bayes_htr.tuning.trials import TrialSettings, auto_strength, with_strength


def fit(
    model: BayesianModel,
    train: Data,
    *,
    method: Method | str | None = None,
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
    threads: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    strength: float | Literal["auto"] | None = None,
    num_data: int | None = None,
    members: int | Sequence[nn.Module] | None = None,
    processes: int = 1,
    shard: bool = False,
) -> Posterior:
    """Train a Bayesian model, such as a `BayesianClassifier`.

    Training starts from the weights of `model.net` (or `init`) on a copy: the network itself and
    the global random state are left as they were. Where `torch.distributed` is initialised with
    more than one process, all of them train together; see `docs/distributed.md`. Threads of one
    process take turns: a call waits until that of another thread has ended. Random numbers that
    your own code draws in another thread meanwhile would still disturb the run.

    Args:
        model: The network with its priors.
        train: A `DataLoader`, which is used as it is, or `(X, y)` of tensors or arrays, `X` of
            shape `(N, ...)` and `y` of `(N,)` integers, or whatever labels the likelihood takes.
            In place of `X` a network with several inputs has a tuple or a dictionary of arrays, and
            gets them as `net(*X)` or `net(**X)`. A dictionary with `labels`, such as a tokeniser
            and a collator of Hugging Face make, holds both `X` and `y`; the batches of a loader may
            be such dictionaries too.
        method: The inference method: `MAP(...)`, `SVI(...)` or `NUTS(...)`, or the name of one with
            its default settings: `"map"`, `"svi"`, `"nuts"`. By default the
            posterior is found by `SVI(guide="spectral", lr=0.006, init_scale=0.3,
            refresh=Drift(0.25), noise="example", noisy_directions=192)`. For a network with batch
            normalisation or low-rank adapters the noise is `"shared"`, in all directions.
        epochs: The number of epochs in all, 30 by default; a resumed run goes on to this number.
            `NUTS` has no epochs: 0.
        batch_size: The number of examples per batch of `(X, y)`, of all processes together; the
            last batch may be shorter.
        validation: Data on which NLL and accuracy are measured after each epoch.
        seed: The seed of the order of `(X, y)`, which a `DataLoader` shuffles by
            `torch.Generator().manual_seed(seed)`, and of the global generators during the run.
        device: The device to train on; `"auto"` takes an accelerator if there is one. By default
            training is on the network's device.
        init: A posterior to start from.
        out: A new folder for configuration, checkpoints, metrics, weights and spectra; it is locked
            during the run.
        resume: Go on with the run in `out`, if there is one; otherwise start it.
        callbacks: Callables that are called after each epoch with an `EpochEvent`, in the first of
            several processes; if one returns `True`, training ends.
        progress: Whether to show a progress bar; by default it is shown on a terminal, and in a
            notebook where ipywidgets is installed.
        threads: The number of PyTorch's threads during the run, on a CPU. By default a small
            network has one, and others as many as PyTorch would use; the progress bar and the
            posterior's `config` tell the number. Small means fewer than two million parameters,
            and fewer than `2^28` multiply-adds in linear layers and convolutions per batch: such
            a network gains little from more threads, and on a busy machine it may train up to a
            hundred times more slowly with them.
        metadata: Plain data to keep in the run folder's configuration, such as the name of the
            data set; a run resumes only with the same.
        strength: The factor by which the strengths of the priors are multiplied. `"auto"` chooses
            it by at most five trial fits scored on the validation data, or on a tenth of `(X, y)`
            that the trials leave out, and then trains as if that number had been given. With `out`,
            trials are kept there in `tuning.json`. `htr.tune` has more to choose from, and shows
            the trials.
        num_data: The number of examples, which sets the weight of the prior relative to the data.
            It is needed if the loader does not know it, as with an `IterableDataset`; an epoch then
            ends with the data set's iterator, or after this many examples.
        members: The number of members of a mixture, an `htr.PosteriorMixture`: fits that start from
            different weights, whose predictions are averaged. The first one starts from the
            weights of `model.net`, and the others from layers that are initialised anew, by their
            own `reset_parameters()`. For a network that is initialised in another way, or was
            trained before, pass a sequence of networks, one for each member. With `out`, each
            member has a run folder in `out/members`. Several processes share out the members.
        processes: The number of members that are fitted at the same time, each in a process of its
            own on this machine. A script then needs `if __name__ == "__main__":`.
        shard: Whether several processes shard the weights by PyTorch's `fully_shard`,
            in place of a whole network in each; for `htr.MAP`. The posterior's network is whole.

    Returns:
        The posterior; with `members` an `htr.PosteriorMixture`.

    Raises:
        DataError: The data cannot be trained on, or do not fit the network.
        PriorError: The priors do not fit the network.
        SpectrumError: Initial weights are not finite, or a law cannot score them.
        DivergenceError: A loss, weight or spectrum became NaN or infinite.
        OutputError: `out` cannot be written, already holds something, or another run is writing
            there. If only the result cannot be written, the error has it as `posterior`.
        CheckpointError: The run to resume is another one, cannot be read, or is damaged.
        ProcessError: Another process of the run failed.
        ValueError: A setting is out of range, or is not the same in all processes.
    """
    with exclusive(), fail_together():
        _check_types(model, method, init, callbacks)
        method, epochs = method_and_epochs(model, method, epochs)
        epochs = whole_number(epochs, "epochs", below=2**31)
        seed = whole_number(seed, "seed", below=2**63)
        if resume and out is None:
            raise ValueError("resume=True needs out=, the folder of the run")
        _check_mixture(members, processes, init, method, shard=shard)
    options: dict[str, Any] = {"method": method, "epochs": epochs, "threads": threads}
    options |= {"batch_size": batch_size, "num_data": num_data, "device": device, "init": init}
    if strength == "auto":
        held_out = hold_out(model, train, validation, seed=seed)
        trials = TrialSettings(fit, model, held_out, options, (seed,))
        strength = auto_strength(trials, out=out, resume=resume, progress=progress)
    if strength is not None:
        model = with_strength(model, number(strength, "strength", at_least=0))
    if members is not None:
        own_device = _device(device, next(model.net.parameters(), torch.zeros(())).device)
        options |= {"seed": seed, "validation": validation, "metadata": metadata}
        options |= {"resume": resume, "device": own_device}
        return fit_members(
            fit,
            model,
            train,
            members,
            options=options,
            processes=processes,
            out=out,
            callbacks=callbacks,
            progress=progress,
        )
    with exclusive(), fail_together(), torch.enable_grad():
        net = _copy_network(model, init)
        target = _device(device, next(net.parameters(), torch.zeros(())).device)
        net.to(target)
        train_options = {"batch_size": batch_size, "seed": seed, "num_data": num_data}
        batches, validation_batches = _batches(model, net, target, train, validation, train_options)
        problem = Problem(
            model=model,
            net=net,
            train=batches,
            validation=validation_batches,
            epochs=epochs,
            seed=seed,
            callbacks=callbacks,
            progress=progress,
            hyperparameters={} if init is None else init.unconstrained_hyperparameters(),
            shard=shard,
        )
        num_threads = _threads(threads, method, problem)
        run = method.prepare(problem)
        config = _config(method, problem, metadata)
        lengths = [len(b) for b in (problem.train, problem.validation) if b is not None]
    check_same(config | {"out": str(out), "the number of batches": lengths})
    if target.type == "cpu":
        config["threads"] = num_threads
    with exclusive(), restored_threads(), torch.enable_grad():
        torch.set_num_threads(num_threads)
        return _trained(run, model, config, None if out is None else RunFolder(out), resume=resume)


def _trained(
    run: Run,
    model: BayesianModel,
    config: dict[str, Any],
    folder: RunFolder | None,
    *,
    resume: bool,
) -> Posterior:
    """Train to the end, and write the posterior into the run folder, if there is one.

    Args:
        run: The run.
        model: The model that is trained.
        config: The description of the run.
        folder: The run folder, which is locked meanwhile.
        resume: Go on with the run that the folder has.

    Raises:
        OutputError: The folder cannot be written, or already holds something.
        CheckpointError: The run to resume is another one, or cannot be read.
        DivergenceError: A loss, weight or spectrum became NaN or infinite.
    """
    try:
        checkpoint = None
        if folder is not None:
            checkpoint = run_on_rank0(partial(folder.start, config, resume=resume))
        fitted = run.run(folder, checkpoint)
        posterior = Posterior(
            fitted.net,
            model.priors,
            likelihood=model.likelihood,
            guide=fitted.guide,
            hyperparameters=fitted.hyperparameters,
            history=fitted.history,
            config={key: value for key, value in config.items() if key != "priors"},
        )
        if folder is not None:
            run_on_rank0(partial(posterior.write, folder))
    finally:
        if folder is not None:
            folder.release()
    return posterior


def load(
    path: str | PathLike[str],
    net: nn.Module,
    *,
    likelihood: Likelihood | Law | Callable[[Tensor], Any] | None = None,
) -> Posterior:
    """Read a posterior that `Posterior.save` or `fit(..., out=)` wrote.

    Only JSON and safetensors files are read: nothing in them is run.

    Args:
        path: The folder.
        net: A network of the same architecture; it is copied, not changed.
        likelihood: The likelihood of the run, which has to be given if it is a callable, since no
            file holds that.

    Raises:
        CheckpointError: The folder has no finished run, a file is truncated or foreign, or the run
            is of another network or likelihood.
    """
    return read_posterior(path, net, likelihood)


def _device(device: str | torch.device | None, present: torch.device) -> torch.device:
    """Return the device to train on; without one given, the network's present device.

    Raises:
        ValueError: There is no such device.
    """
    if device is None:
        return present
    if device != "auto":
        return usable_device(device)
    if world_size() > 1:
        return own_device("auto")
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    return torch.device("cpu")


def _batches(
    model: BayesianModel,
    net: nn.Module,
    device: torch.device,
    train: Data,
    validation: Data | None,
    train_options: Mapping[str, Any],
) -> tuple[Batches, Batches | None]:
    """Make batches of the data, and check the first ones with the network.

    Args:
        model: The model, whose likelihood the labels have to fit.
        net: The copy of its network, on the device.
        device: The device.
        train: The training data, as in `fit`.
        validation: The validation data, if any.
        train_options: The batch size, the seed and the number of the training data.

    Returns:
        The batches of the training data, and those of the validation data.

    Raises:
        DataError: The data cannot be trained on, or do not fit the network.
    """
    options: dict[str, Any] = {"device": device, "dtype": input_dtype(net)}
    options["likelihood"] = model.likelihood
    batches = Batches(train, name="train", **options, **train_options)
    batches.check_network(net)
    if batches.doubt is not None:
        warnings.warn(batches.doubt, stacklevel=3)
    if validation is None:
        return batches, None
    held_out = Batches(validation, name="validation", **options, batch_size=1024, counted=False)
    held_out.check_network(net)
    return batches, held_out


def _threads(given: int | None, method: Method, problem: Problem) -> int:
    """Return the number of threads to train with: the given one, or one that suits the network.

    Args:
        given: The number that the user has asked for.
        method: The method; NUTS takes all data at each step.
        problem: The model with its data; where the device is no CPU, the number stays as it is.

    Raises:
        ValueError: The given number is out of range.
    """
    if problem.train.device.type != "cpu":
        return torch.get_num_threads()
    if given is not None:
        return whole_number(given, "threads", at_least=1, below=2**15)
    steps = len(problem.train) if isinstance(method, NUTS) else 1
    return suitable_threads(problem.net, steps * problem.train.multiply_adds)


def _check_types(model: Any, method: Any, init: Any, callbacks: Any) -> None:
    """Raise `ValueError` if an argument is of a kind that `fit` does not take."""
    if not isinstance(model, BayesianModel):
        raise ValueError(
            f"model={shown(model)} must be a BayesianClassifier(net, priors) or a BayesianModel"
        )
    is_method = hasattr(method, "describe") and not isinstance(method, type)
    if not (method is None or isinstance(method, str) or is_method):
        raise ValueError(f"method={shown(method)} must be an inference method, such as MAP()")
    if init is not None and not isinstance(init, Posterior):
        raise ValueError(f"init={shown(init)} must be a Posterior")
    for callback in callbacks if isinstance(callbacks, Sequence) else [callbacks]:
        if not isinstance(callbacks, Sequence) or not callable(callback):
            raise ValueError(f"callbacks={shown(callbacks)} must be a sequence of callables")


def _check_mixture(
    members: Any, processes: int, init: Posterior | None, method: Any, *, shard: bool
) -> None:
    """Raise `ValueError` for arguments of a mixture without members, or a sharded run with them."""
    if members is None and (processes != 1 or isinstance(init, PosteriorMixture)):
        raise ValueError(
            f"init={init!r} and processes={processes!r} are for a mixture; give members= too"
        )
    if shard and (members is not None or not isinstance(method, MAP)):
        raise ValueError(
            "shard=True is for htr.MAP without members: other methods hold whole weights in each "
            "process; leave it out"
        )


def _copy_network(model: BayesianModel, init: Posterior | None) -> nn.Module:
    """Copy the model's network, with the weights from which training starts.

    Raises:
        ValueError: The network cannot be copied or saved, or `init` is of another network.
        SpectrumError: A weight is not finite.
    """
    net = model.net
    if hooked := [p.name for p in parameters_of(net) if has_hooks(p.tensor)]:
        warnings.warn(
            f"hooks are registered on {', '.join(hooked)}, and fit trains a copy of the network, "
            "which does not have them. To mask or scale a gradient, use torch.nn.utils.parametrize "
            "or freeze the parameter; or train the network in a loop with htr.bind",
            stacklevel=3,
        )
    if world_size() > 1 and isinstance(net, nn.parallel.DistributedDataParallel):
        net = net.module  # the copy gets a wrapper of its own
    try:
        net = copy.deepcopy(net)
    except RuntimeError as error:
        raise ValueError(
            f"{type(net).__name__} cannot be copied ({error}); with the old weight_norm, use "
            "torch.nn.utils.parametrizations.weight_norm"
        ) from error
    for name, value in net.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(
                f"{name!r} in the network's state_dict is a {type(value).__name__}, and only "
                "tensors can be saved; leave it out of get_extra_state"
            )
    if init is not None:
        try:
            net.load_state_dict(init.network().state_dict())
        except RuntimeError as error:
            raise ValueError(f"init is the posterior of another network: {error}") from error
    for p in parameters_of(net):
        check_finite(p.tensor.detach(), p.name)
    return net


def _config(method: Method, problem: Problem, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Describe a run as plain data, by which it is recognised on resuming.

    Raises:
        ValueError: The metadata are not plain data.
    """
    model = problem.model
    described = describe_fit(
        method, model, epochs=problem.epochs, seed=problem.seed, metadata=metadata
    )
    return described | {
        "train": problem.train.fingerprint,
        "num_data": problem.train.num_data,
        "network": type(model.net).__name__,
        "parameters": {p.name: list(p.tensor.shape) for p in parameters_of(model.net)},
        **({"shard": True} if problem.shard else {}),
    }

"""The commands `bayes-htr fit` and `bayes-htr report`; their options are in `bayes_htr.cli`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from bayes_htr._printing import add_row, compact_table
from bayes_htr._terminal import plural, visible
from bayes_htr._threads import counted_work, restored_threads
from bayes_htr._torch import evaluation_mode
from bayes_htr.analysis import Records
from bayes_htr.choosing import tune
from bayes_htr.distributed import process_group, run_on_rank0, world_size
from bayes_htr.errors import CheckpointError, OutputError
from bayes_htr.experiments import (
    Dataset,
    Entrant,
    FitSettings,
    Workers,
    build_network,
    check_densities,
    claimed_folder,
    compare,
    named_priors,
)
from bayes_htr.experiments.own_data import is_own_data, load_inputs
from bayes_htr.fitting import load
from bayes_htr.inference import MAP, SVI, Method, RunFolder
from bayes_htr.inference.defaults import default_method
from bayes_htr.models import BayesianClassifier
from bayes_htr.priors import Priors
from bayes_htr.report import RunReport
from bayes_htr.run_options import kept_options, read_options
from bayes_htr.tuning import Tuning

TUNING_PICTURE = "tuning.png"
"""The score of trials against their strength, where the strength was chosen."""

_SHOWN = 10
"""Predictions that are shown."""


def run_fit(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Train the requested fit and those for comparison, show the run, and return its scores."""
    with process_group(args.device) as device:
        return _train(args, console, device)


def _train(args: argparse.Namespace, console: Console, device: str) -> dict[str, Any]:
    """Train on a device, as `run_fit` says."""
    settings = _settings(args, device)
    data = run_on_rank0(lambda: settings.dataset(args.seed))
    num_data = len(data.y_train)
    net = settings.network(data, args.seed)
    entrants = _entrants(args, net, num_data, 1.0 if args.strength == "auto" else args.strength)
    first = entrants[0]
    if first.init is not None:
        _check_init(args, first.init, net)
    name = f"{Path(args.data).stem}-{args.net}-{Path(args.prior).stem}"
    seeds = range(args.seed, args.seed + args.seeds)
    workers, of_members = _workers(args, net, data, len(entrants), device)
    default = Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    with (
        claimed_folder(args.out, default, resume=args.resume) as out,
        restored_threads(),
        kept_options(out, args, _preparation(data)),
    ):
        torch.set_num_threads(workers.threads)
        members = f"{args.members} members and " if args.members > 1 else ""
        console.print(
            f"{args.net} on {args.data}: {num_data} training examples; "
            f"{plural(len(entrants) * len(seeds), 'fit')} of "
            f"{members}{plural(args.epochs, 'epoch')}, {workers}",
            highlight=False,
        )
        console.print(visible(f"run folder: {out}"), markup=False, highlight=False, soft_wrap=True)
        tuning = None
        if args.strength == "auto":
            tuning = _tuned(args, first, net, data, device, workers.threads, out)
            console.print(str(tuning), markup=False, highlight=False)
            entrants = _entrants(args, net, num_data, tuning.strength)
            first = entrants[0]
        columns = ("parameter", "matrix", "prior", "density", "strength")
        console.print(first.priors.explain(net, num_data=num_data).table(columns))
        settings = replace(settings, threads=workers.threads, processes=of_members.count)
        compare(
            settings, entrants, seeds, out, console=console, workers=workers, resume=args.resume
        )
        shown = run_on_rank0(lambda: show_run(out, console))
        if tuning is not None:
            run_on_rank0(lambda: _draw_tuning(tuning, out / TUNING_PICTURE, console))
        return shown


def _settings(args: argparse.Namespace, device: str) -> FitSettings:
    """Return the settings that all fits of the command share."""
    return FitSettings(
        data=args.data,
        data_dir=args.data_dir,
        net=args.net,
        epochs=args.epochs,
        batch_size=args.batch_size,
        device=device,
        label_smoothing=args.label_smoothing,
        target=args.target,
        members=args.members,
        shard=args.shard,
    )


def _workers(
    args: argparse.Namespace, net: nn.Module, data: Dataset, entrants: int, device: str
) -> tuple[Workers, Workers]:
    """Return how many fits run at a time, and how many members of a mixture, with their threads."""
    with counted_work(net) as work, evaluation_mode(net), torch.no_grad():
        net(data.x_train[: max(1, args.batch_size)])
    chosen = partial(
        Workers.chosen,
        net,
        device=device,
        multiply_adds=work.multiply_adds,
        threads=args.threads,
    )
    is_distributed = world_size() > 1
    fits = chosen(entrants * args.seeds, alone=args.seeds == 1 or is_distributed)
    return fits, chosen(args.members, alone=args.seeds > 1 or is_distributed)


def _preparation(data: Dataset) -> dict[str, Any]:
    """Describe as plain data what was done to the inputs, for `bayes-htr predict`."""
    return data.preparation or {
        "columns": [],
        "classes": list(data.classes),
        "shape": list(data.input_shape),
        "mean": data.mean.flatten().tolist(),
        "deviation": data.deviation.flatten().tolist(),
    }


def _tuned(
    args: argparse.Namespace,
    first: Entrant,
    net: nn.Module,
    data: Dataset,
    device: str,
    threads: int,
    out: Path,
) -> Tuning:
    """Choose the strength of the requested fit; its priors are given at strength 1."""
    return tune(
        BayesianClassifier(net, first.priors, label_smoothing=args.label_smoothing),
        (data.x_train, data.y_train),
        method=first.method,
        epochs=args.epochs,
        batch_size=args.batch_size,
        seed=args.seed,
        device=device,
        init=None if first.init is None else load(first.init, net),
        refit=False,
        out=out,
        resume=args.resume,
        threads=threads,
    )


def _draw_tuning(tuning: Tuning, path: Path, console: Console) -> None:
    """Draw the score against the strength, if pictures can be drawn and written."""
    try:
        tuning.plot(path=path)
    except (ImportError, OSError):
        return  # which `show_run` has told
    console.print(visible(f"picture: {path}"), markup=False, highlight=False, soft_wrap=True)


def _entrants(
    args: argparse.Namespace, net: nn.Module, num_data: int, strength: float | None
) -> list[Entrant]:
    """Return the requested fit and those that it is compared with.

    The requested fit has the given strength, or the default one.
    """
    name, is_svi = args.prior, args.method == "svi"

    def priors(prior: str, power: float | None, *, posterior: bool = False) -> Priors:
        return named_priors(prior, strength=power, num_data=num_data, posterior=posterior)

    fitted = priors(args.prior, strength, posterior=is_svi)
    if is_svi:
        check_densities(fitted, net, num_data=num_data)
    mode = "none" if name == "none" else "MAP"
    label = "posterior" if is_svi else mode
    entrants = [Entrant(label, fitted, _method(args, net), init=args.init)]
    if args.no_compare:
        return entrants
    trained = MAP() if is_svi else entrants[0].method
    if is_svi:
        entrants.append(Entrant(mode, fitted, trained, "compare/map"))
    for other, title in (("weight_decay", "weight decay"), ("none", "none")):
        if name != other:
            entrants.append(Entrant(title, priors(other, None), trained, f"compare/{other}"))
    return entrants


def _check_init(args: argparse.Namespace, run: Path, net: nn.Module) -> None:
    """Refuse a starting point that does not fit, before anything is written.

    Raises:
        CheckpointError: The folder has no finished run of such a network.
        ValueError: The starting point was trained on other images than this fit.
    """
    load(run, net)
    if args.seeds > 1:
        raise ValueError("--init starts a single fit; leave out --seeds")
    seed = RunFolder(run).config().get("seed")
    if (args.data == "digits" or is_own_data(args.data)) and seed != args.seed:
        raise ValueError(
            f"the run in {run} was trained with seed {seed}, and --seed is {args.seed}: the data "
            "are split by the seed, so that it has seen examples that this fit is tested on; give "
            f"--seed {seed}"
        )


def _method(args: argparse.Namespace, net: nn.Module) -> Method:
    given: dict[str, Any] = {
        name: value
        for name in ("lr", "guide", "noise")
        if (value := getattr(args, name)) is not None
    }
    if args.method == "map":
        return MAP(**given)
    if given.pop("guide", "spectral") == "spectral":
        return default_method(net, **given)
    return SVI(guide=args.guide, **given)


def show_run(folder: Path, console: Console) -> dict[str, Any]:
    """Draw the pictures of a finished run, show its tables, and return its scores."""
    report = RunReport.read(folder)
    try:
        pictures = report.draw()
    except (
        ImportError,
        OutputError,
    ) as error:  # a folder may be read-only
        console.print(visible(f"no pictures: {error}"), markup=False, highlight=False)
    else:
        for picture in pictures:
            line = visible(f"picture: {picture}")
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    report.show(console)
    return report.to_dict()


def predict(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Predict the classes of new data by a run of `bayes-htr fit`.

    Raises:
        CheckpointError: The folder holds no finished run of `bayes-htr fit`.
        DataError: The new data differ from the training data in columns or shape.
        OutputError: The predictions cannot be written.
    """
    net, preparation = _prepared(args.folder)
    posterior = load(args.folder, net)
    inputs = load_inputs(args.data, preparation)
    prediction = posterior.predict(inputs, args.samples, seed=args.seed)
    classes = preparation["classes"]
    rows = [
        {
            "class": classes[int(label)],
            "probability": float(probs[label]),
            "entropy": float(entropy),
            "mutual_information": float(information),
            **{f"probability:{name}": float(p) for name, p in zip(classes, probs, strict=True)},
        }
        for label, probs, entropy, information in zip(
            prediction.labels,
            prediction.probs,
            prediction.entropy,
            prediction.mutual_information,
            strict=True,
        )
    ]
    table = compact_table("row", "class", "probability", "entropy", "mutual information")
    for i, row in enumerate(rows[:_SHOWN], start=1):
        numbers = [f"{row[name]:.3f}" for name in ("probability", "entropy", "mutual_information")]
        add_row(table, [str(i), visible(row["class"]), *numbers])
    console.print(table)
    if len(rows) > _SHOWN:
        rest = len(rows) - _SHOWN
        console.print(f"and {rest} more; --out FILE.csv writes all of them", highlight=False)
    if args.out is not None:
        written = f"written: {Records(rows).to_csv(args.out)}"
        console.print(visible(written), markup=False, highlight=False, soft_wrap=True)
    return {"predictions": rows}


def _prepared(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network of a run, and what was done to its inputs.

    A run on data of one's own has both in its configuration, and others in the file of the
    command's options, which lies two folders above a run in `compare/`.

    Raises:
        CheckpointError: The run is of another kind.
    """
    metadata = RunFolder(folder).config().get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    preparation, name = metadata.get("preparation"), metadata.get("net")
    if preparation is None:
        of_command = folder.parents[1] if folder.parent.name == "compare" else folder
        kept = read_options(of_command)
        if kept is None:
            raise CheckpointError(
                f"{folder} has no file of the options of bayes-htr fit, so that its inputs are not "
                "known. Name the folder that bayes-htr fit was given; in Python, htr.load(folder, "
                "net).predict(X) takes any network"
            )
        preparation, name = kept["preparation"], kept["options"].get("net")
    try:
        channels, height, width = preparation["shape"]
        shape = (int(channels), int(height), int(width))
        net = build_network(str(name), shape, len(preparation["classes"]))
        if not len(preparation["mean"]) == len(preparation["deviation"]) == channels:
            raise ValueError("not one mean and deviation for each channel")
        if not isinstance(preparation["columns"], list):
            raise ValueError("no list of columns")
    except Exception as error:  # foreign data may raise anything
        raise CheckpointError(
            f"{folder} has a configuration that cannot be read: {error!r}"
        ) from error
    return net, preparation

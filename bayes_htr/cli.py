"""The command line, `bayes-htr` or `python -m bayes_htr`: fit, report, analyze and bench."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

import bayes_htr
from bayes_htr.analysis import add_analyze
from bayes_htr.analysis.names import visible
from bayes_htr.benchmarks import add_bench
from bayes_htr.benchmarks.running import count
from bayes_htr.errors import (
    CheckpointError,
    DataError,
    DivergenceError,
    OutputError,
    PriorError,
    ProcessError,
    SpectrumError,
)
from bayes_htr.experiments import (
    COMPARED,
    DATASETS,
    NETWORKS,
    PRIORS,
    Settings,
    build_network,
    check_densities,
    compare,
    load_dataset,
    named_priors,
)
from bayes_htr.fit import load
from bayes_htr.help_text import HelpFormatter
from bayes_htr.inference import MAP, SVI, Method
from bayes_htr.inference.distributed import from_main, launched, process_group
from bayes_htr.inference.guide_choice import guide_names
from bayes_htr.inference.guides.example_noise import finest_noise
from bayes_htr.report import RunReport

_EXPECTED = (
    CheckpointError,
    DataError,
    DivergenceError,
    ImportError,
    OutputError,
    PriorError,
    ProcessError,
    SpectrumError,
    ValueError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for an error, 130 if interrupted.

    Of the processes that `torchrun` starts, all train and the first alone prints.
    """
    args = build_parser().parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    silent = launched()[0] > 0
    errors = Console(stderr=True, quiet=silent)
    try:
        args.run(args, Console(quiet=silent))
    except _EXPECTED as error:
        lines = "\n".join(map(visible, str(error).split("\n")))  # with names from strangers' files
        errors.print(f"bayes-htr: {lines}", markup=False, highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        errors.print(f"bayes-htr: {args.interrupted}")
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="bayes-htr",
        description="Bayesian training with heavy-tailed priors on weight spectra.",
    )
    parser.add_argument("--version", action="version", version=bayes_htr.__version__)
    commands = parser.add_subparsers(title="commands", required=True)
    _add_fit(commands)
    report = commands.add_parser(
        "report", help="show a finished run again", description="Show a finished run again."
    )
    report.add_argument("folder", type=Path, help="the run folder")
    report.set_defaults(run=_report, interrupted="interrupted")
    add_analyze(commands)
    add_bench(commands)
    return parser


def _add_fit(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    fit = commands.add_parser(
        "fit",
        help="train a classifier under a spectral prior",
        description="Train a classifier under a spectral prior, and the same network without a "
        "prior and with weight decay; print test scores and spectra.",
        formatter_class=HelpFormatter,
    )
    _add_model(fit)
    _add_training(fit)
    fit.add_argument(
        "--out", type=Path, metavar="DIR", help="new run folder (default: runs/ and the time)"
    )
    fit.add_argument("--resume", action="store_true", help="go on with the run in --out")
    fit.add_argument("--no-compare", action="store_true", help="leave out the runs compared with")
    fit.set_defaults(run=_fit, interrupted="interrupted; go on with --resume --out FOLDER")


def _add_model(fit: argparse.ArgumentParser) -> None:
    """What is trained, and how its posterior is found."""
    fit.add_argument("--data", choices=DATASETS, default="digits", help="the data set")
    fit.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="folder of .npz files; without it data sets other than digits come from OpenML",
    )
    fit.add_argument("--net", choices=NETWORKS, default="mlp", help="the network")
    fit.add_argument(
        "--prior",
        metavar="NAME|FILE.toml",
        help=f"none, {', '.join(PRIORS)}, or a file of priors by pattern (default: frechet, and "
        "lomax with --method svi)",
    )
    fit.add_argument(
        "--method",
        choices=("map", "svi"),
        default="map",
        help="the inference method; with svi the compared runs are those of map",
    )
    fit.add_argument(
        "--guide",
        choices=guide_names(),
        help="of svi: the family of posteriors over the weights (default: that of htr.SVI)",
    )
    fit.add_argument(
        "--noise",
        choices=("example", "shared"),
        help="of the spectral guide: a draw of the weights for each example, or one for a batch "
        "(default: for each, but with batch normalisation one)",
    )
    fit.add_argument(
        "--init",
        type=Path,
        metavar="RUN",
        help="run folder of a fit of the same network to start from (default: fresh weights)",
    )
    fit.add_argument(
        "--strength",
        type=float,
        help="power of the prior; 1 is Bayes' rule, mu * (number of examples) a coefficient mu on "
        "the mean loss (default: the name's own, for svi another than for map; it multiplies the "
        "strength of a file)",
    )


def _add_training(fit: argparse.ArgumentParser) -> None:
    """How it is trained, and where."""
    fit.add_argument("--epochs", type=int, default=30, help="epochs in all")
    fit.add_argument("--batch-size", type=int, default=64, help="examples per batch")
    fit.add_argument(
        "--lr",
        type=float,
        help="learning rate: of SGD with momentum 0.9 for map, of Adam for svi "
        "(default: 0.05 for map, 0.006 for the spectral guide, 0.001 for others)",
    )
    fit.add_argument(
        "--label-smoothing",
        type=float,
        default=0.0,
        metavar="EPS",
        help="share of each label that is spread over all classes in training, the same in every "
        "run; scores are not smoothed",
    )
    fit.add_argument("--seed", type=count, default=0, help="of weights, order and data split")
    fit.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ...")
    fit.add_argument(
        "--threads",
        type=int,
        help="of PyTorch on the CPU; 1 is best for small networks on a busy machine "
        "(default: PyTorch's own)",
    )


def _fit(args: argparse.Namespace, console: Console) -> None:
    if args.threads is not None:
        if args.threads < 1:
            raise ValueError(f"--threads {args.threads}: give at least 1")
        torch.set_num_threads(args.threads)
    if args.resume and args.out is None:
        raise ValueError("--resume needs --out, the folder of the run")
    if args.data == "digits" and args.data_dir is not None:
        raise ValueError("--data-dir: digits come with scikit-learn; leave it out, or name --data")
    for option in ("guide", "noise"):
        if (value := getattr(args, option)) is not None and args.method != "svi":
            raise ValueError(f"--{option} {value} is of svi; add --method svi, or leave it out")
    if args.prior is None:
        args.prior = "lomax" if args.method == "svi" else "frechet"
    with process_group(args.device) as device:
        _train(args, console, device)


def _train(args: argparse.Namespace, console: Console, device: str) -> None:
    data = from_main(lambda: load_dataset(args.data, args.data_dir, seed=args.seed))
    num_data = len(data.y_train)
    is_svi = args.method == "svi"
    priors = named_priors(args.prior, strength=args.strength, num_data=num_data, posterior=is_svi)
    net = build_network(args.net, data.input_shape, data.num_classes, seed=args.seed)
    if is_svi:
        check_densities(priors, net, num_data=num_data)
    init = None if args.init is None else load(args.init, net)
    name = f"{args.data}-{args.net}-{Path(args.prior).stem}"
    out = from_main(lambda: args.out or Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}")
    console.print(f"{args.net} on {args.data}: {num_data} training examples", highlight=False)
    columns = ("parameter", "matrix", "prior", "density", "strength")
    console.print(priors.explain(net, num_data=num_data).table(columns))
    settings = Settings(
        method=_method(args, net),
        compared=MAP() if is_svi else None,
        epochs=args.epochs,
        batch_size=args.batch_size,
        seed=args.seed,
        device=device,
        label_smoothing=args.label_smoothing,
    )
    label = Path(args.prior).name
    compare(
        data,
        net,
        priors,
        settings,
        out,
        label=label,
        against=() if args.no_compare else tuple(c for c in COMPARED if c != label),
        resume=args.resume,
        init=init,
    )
    from_main(lambda: _show(out, console))


def _method(args: argparse.Namespace, net: nn.Module) -> Method:
    given: dict[str, Any] = {
        name: value
        for name in ("lr", "guide", "noise")
        if (value := getattr(args, name)) is not None
    }
    if args.method == "map":
        return MAP(**given)
    if args.guide in (None, "spectral"):
        given = {"lr": 6e-3, "init_scale": 0.3, "noise": finest_noise(net)} | given
    return SVI(**given)


def _report(args: argparse.Namespace, console: Console) -> None:
    if launched()[0] == 0:
        _show(args.folder, console)


def _show(folder: Path, console: Console) -> None:
    report = RunReport.read(folder)
    try:
        pictures = report.draw()
    except ImportError as error:
        console.print(f"no pictures: {error}", markup=False)
    else:
        for picture in pictures:
            console.print(f"picture: {picture}", markup=False, highlight=False, soft_wrap=True)
    report.show(console)

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
from bayes_htr.benchmarks.running import count, positive
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
    DATASETS,
    NETWORKS,
    PRIORS,
    Entrant,
    Settings,
    Workers,
    check_densities,
    compare,
    named_priors,
)
from bayes_htr.fitting import load
from bayes_htr.help_text import HelpFormatter
from bayes_htr.inference import MAP, SVI, Method, default_method
from bayes_htr.inference.distributed import from_main, launched, process_group
from bayes_htr.inference.guide_choice import guide_names
from bayes_htr.priors import Priors
from bayes_htr.processes import world_size
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
        description="Find the posterior of a classifier under a spectral prior; train the same "
        "network also by MAP under it, with weight decay and without a prior; print test scores "
        "and spectra.",
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
        default="lomax",
        help=f"none, {', '.join(PRIORS)}, or a file of priors by pattern",
    )
    fit.add_argument(
        "--method",
        choices=("map", "svi"),
        default="svi",
        help="svi for the posterior, map for its mode; what the posterior is compared with is "
        "trained by map",
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
    fit.add_argument("--batch-size", type=int, default=32, help="examples per batch")
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
    fit.add_argument(
        "--seeds",
        type=positive,
        default=1,
        metavar="N",
        help="train every fit with N seeds, from --seed on, several at a time; scores then have "
        "standard errors, and paired differences intervals",
    )
    fit.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ...")
    fit.add_argument(
        "--threads",
        type=int,
        help="of PyTorch on the CPU, for each fit (default: 1 for networks of fewer than two "
        "million parameters, which gain nothing by more and suffer on a busy machine)",
    )


def _fit(args: argparse.Namespace, console: Console) -> None:
    if args.resume and args.out is None:
        raise ValueError("--resume needs --out, the folder of the run")
    if args.data == "digits" and args.data_dir is not None:
        raise ValueError("--data-dir: digits come with scikit-learn; leave it out, or name --data")
    for option in ("guide", "noise"):
        if (value := getattr(args, option)) is not None and args.method != "svi":
            raise ValueError(f"--{option} {value} is of svi; leave it out, or --method map")
    if args.prior == "none" and args.method == "svi":
        raise ValueError("--prior none has no posterior to look for; add --method map")
    with process_group(args.device) as device:
        _train(args, console, device)


def _train(args: argparse.Namespace, console: Console, device: str) -> None:
    settings = Settings(
        data=args.data,
        data_dir=args.data_dir,
        net=args.net,
        epochs=args.epochs,
        batch_size=args.batch_size,
        device=device,
        label_smoothing=args.label_smoothing,
    )
    data = from_main(lambda: settings.dataset(args.seed))
    num_data = len(data.y_train)
    net = settings.network(data, args.seed)
    entrants = _entrants(args, net, num_data)
    first = entrants[0]
    if first.init is not None:
        load(first.init, net)  # what cannot be started from is refused before anything is written
    name = f"{args.data}-{args.net}-{Path(args.prior).stem}"
    out = from_main(lambda: args.out or Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}")
    seeds = range(args.seed, args.seed + args.seeds)
    workers = Workers.chosen(
        net,
        len(entrants) * len(seeds),
        device=device,
        threads=args.threads,
        alone=len(seeds) == 1 or world_size() > 1,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(workers.threads)
    console.print(
        f"{args.net} on {args.data}: {num_data} training examples; "
        f"{len(entrants) * len(seeds)} fits of {args.epochs} epochs, {workers}",
        highlight=False,
    )
    columns = ("parameter", "matrix", "prior", "density", "strength")
    console.print(first.priors.explain(net, num_data=num_data).table(columns))
    try:
        compare(
            settings, entrants, seeds, out, console=console, workers=workers, resume=args.resume
        )
    finally:
        torch.set_num_threads(threads)
    from_main(lambda: _show(out, console))


def _entrants(args: argparse.Namespace, net: nn.Module, num_data: int) -> list[Entrant]:
    """The fit that is asked for, and what it is compared with."""
    name, is_svi = Path(args.prior).stem, args.method == "svi"

    def priors(prior: str, strength: float | None, *, posterior: bool = False) -> Priors:
        return named_priors(prior, strength=strength, num_data=num_data, posterior=posterior)

    fitted = priors(args.prior, args.strength, posterior=is_svi)
    if is_svi:
        check_densities(fitted, net, num_data=num_data)
    mode = "none" if name == "none" else "MAP"
    label = "posterior" if is_svi else mode
    entrants = [Entrant(label, fitted, _method(args, net), init=args.init)]
    if args.no_compare:
        return entrants
    if is_svi:
        entrants.append(Entrant(mode, fitted, MAP(), "compare/map"))
    for other, title in (("weight_decay", "weight decay"), ("none", "none")):
        if name != other:
            entrants.append(Entrant(title, priors(other, None), MAP(), f"compare/{other}"))
    return entrants


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

"""The command line, `bayes-htr` or `python -m bayes_htr`: fit, report and analyze."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bayes_htr._terminal import HelpFormatter, count, hidden_bars, positive, preload, visible
from bayes_htr._version import __version__
from bayes_htr.errors import (
    CheckpointError,
    DataError,
    DivergenceError,
    OutputError,
    PriorError,
    ProcessError,
    SpectrumError,
)

# The choices of options, as plain data, so that the help needs no other module.
DATASETS = ("digits", "fashion_mnist", "kmnist", "cifar10")
NETWORKS = ("mlp", "lenet5", "resnet18")
PRIORS = (
    "frechet",
    "lomax",
    "exponential",
    "powerlaw",
    "frechet_hill",
    "powerlaw_hill",
    "weighted_alpha",
    "stable_rank",
    "weight_decay",
    "spectral_norm",
    "nuclear_norm",
)
GUIDES = ("spectral", "meanfield", "lowrank")

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
    """Run `bayes-htr` and return the exit status, as `run_command` does."""
    return run_command(build_parser(), argv)


def run_command(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Run the command that a command line names.

    Under `torchrun`, all processes train and only the first one prints.

    Args:
        parser: Sets for each command `run`, which is called with the arguments and a console, and
            `interrupted`, the message for an interruption. With the option `--json`, what `run`
            returns is printed as JSON.
        argv: The words of the command line after the name of the program; by default those of this
            process.

    Returns:
        The exit status: 0, 1 for an error, 130 if interrupted.
    """
    args = parser.parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    silent = is_silent()
    wants_json = getattr(args, "json", False)
    quiet = wants_json or getattr(args, "quiet", False)
    errors = Console(stderr=True, quiet=silent)
    try:
        with hidden_bars(quiet):
            result = args.run(args, Console(quiet=silent or quiet))
        if wants_json and not silent:
            print(json.dumps(result, allow_nan=False))
    except _EXPECTED as error:
        lines = "\n".join(map(visible, str(error).split("\n")))  # with names from strangers' files
        errors.print(f"{parser.prog}: {lines}", markup=False, highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        errors.print(f"{parser.prog}: {args.interrupted}")
        return 130
    return 0


def is_silent() -> bool:
    """Return whether this is one of the processes of `torchrun`, but not the first."""
    return int(os.environ.get("RANK", "0")) > 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="bayes-htr",
        description="Bayesian training with heavy-tailed priors on weight spectra.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True)
    _add_fit(commands)
    report = commands.add_parser(
        "report", help="show a finished run again", description="Show a finished run again."
    )
    report.add_argument("folder", type=Path, help="the run folder")
    _add_output(report)
    report.set_defaults(run=_report, interrupted="interrupted")
    _add_analyze(commands)
    _add_predict(commands)
    completion = commands.add_parser(
        "completion",
        help="print the completion of this command line for a shell",
        description="Print the completion of this command line for a shell. For bash: "
        "bayes-htr completion bash > ~/.local/share/bash-completion/completions/bayes-htr",
    )
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="the shell")
    completion.set_defaults(run=_completion, interrupted="interrupted")
    bench = commands.add_parser(
        "bench",
        help="say how benchmarks are run",
        description="Say how benchmarks are run: from a clone, by `python -m benchmarks`.",
    )
    bench.add_argument("words", nargs=argparse.REMAINDER, help="of the benchmark's command line")
    bench.set_defaults(run=_bench, interrupted="interrupted")
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
    fit.add_argument(
        "--resume",
        nargs="?",
        type=Path,
        const=True,
        default=False,
        metavar="DIR",
        help="go on with the run in this folder, or in --out, with the options that it has",
    )
    fit.add_argument("--no-compare", action="store_true", help="leave out the runs compared with")
    _add_output(fit)
    fit.set_defaults(run=_fit, interrupted="interrupted; go on with --resume FOLDER")


def _add_model(fit: argparse.ArgumentParser) -> None:
    """Add the options for the model and the inference method."""
    fit.add_argument(
        "--data",
        type=_data,
        metavar="NAME|PATH",
        default="digits",
        help=f"{', '.join(DATASETS)}; or data of your own: a .csv table, an .npz file with X and "
        "y, or a folder with a folder of images for each class",
    )
    fit.add_argument("--target", metavar="COLUMN", help="column of a .csv table with the labels")
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
        help=f"none, {', '.join(PRIORS)}, or a file of priors by pattern; lomax is "
        "Lomax(2.5, 0.05) for svi and Lomax(2, 1) for map",
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
        choices=GUIDES,
        help="of svi: the family of posteriors over the weights (default: that of htr.SVI)",
    )
    fit.add_argument(
        "--noise",
        choices=("example", "shared"),
        help="of the spectral guide: a draw of the weights for each example, or one for a batch "
        "(default: for each, but with batch normalisation or low-rank adapters one)",
    )
    fit.add_argument(
        "--init",
        type=Path,
        metavar="RUN",
        help="run folder of a fit of the same network, with the same seed, to start from "
        "(default: fresh weights)",
    )
    fit.add_argument(
        "--strength",
        type=_strength,
        metavar="NUMBER|auto",
        help="power of the prior; 1 is Bayes' rule, mu * (number of examples) a coefficient mu on "
        "the mean loss (default: the name's own, for svi another than for map; it multiplies the "
        "strength of a file); auto chooses it by at most five more fits, scored on a tenth of the "
        "training data",
    )


def _add_training(fit: argparse.ArgumentParser) -> None:
    """Add the options for training."""
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
    fit.add_argument(
        "--members",
        type=positive,
        default=1,
        metavar="N",
        help="fit every method N times from different weights, and average the predictions: a "
        "mixture of posteriors, or an ensemble of modes",
    )
    fit.add_argument(
        "--shard",
        action="store_true",
        help="of map, under torchrun: shard the weights between the processes",
    )
    fit.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ...")
    fit.add_argument(
        "--threads",
        type=int,
        help="of PyTorch on the CPU, for each fit (default: 1 for networks of fewer than two "
        "million parameters, which gain nothing by more and suffer on a busy machine)",
    )


def _add_analyze(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "analyze",
        help="show the spectra of a trained network",
        description="Show the spectra of the weight matrices of a network: power-law exponents "
        "with intervals, the random bulk, and a verdict for each matrix.",
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add("path", type=Path, help=".pt, .pth or .safetensors file, index of a sharded one, or folder")
    add("--out", type=Path, metavar="FILE", help="also write all columns: .csv, .json, .parquet")
    add("--report", type=Path, metavar="FILE.html", help="also write a report with pictures")
    add("--layers", nargs="+", default=[], metavar="PATTERN", help="weights to analyse")
    add("--exclude", nargs="+", default=[], metavar="PATTERN", help="weights to leave out")
    add(
        "--matrices",
        type=Path,
        metavar="FILE.toml",
        help="file whose table [matrices] says which axes form matrices",
    )
    add("--min-size", type=int, default=8, metavar="K", help="fewest eigenvalues of a matrix")
    add(
        "--conv",
        choices=("flatten", "slices"),
        default="flatten",
        help="convolutions as one matrix, or as one for each position of the kernel",
    )
    add("--level", type=float, default=0.95, help="probability of the intervals")
    add(
        "--bootstrap",
        type=_replicates,
        default="auto",
        metavar="N",
        help="replicates for p-values and for intervals over xmin; 0 for none; auto, the default, "
        "takes as many as verdicts need",
    )
    add("--randomize", action="store_true", help="compare with the entries in random order")
    add("--farms", action="store_true", help="also fit windows of one aspect ratio")
    add("--seed", type=int, default=0, help="of bootstrap and random order")
    add(
        "--compare",
        type=Path,
        metavar="OTHER",
        help="another checkpoint of the same network: show, and write, the differences",
    )
    _add_output(parser)
    parser.set_defaults(run=_analyze, interrupted="interrupted; nothing was written")


def _add_predict(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "predict",
        help="predict the classes of new data",
        description="Predict the classes of new data by a run of bayes-htr fit, with the "
        "probability of each class and the uncertainty in nats.",
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="RUN", help="run folder of bayes-htr fit")
    add("data", type=Path, help=".csv table, .npz file with X, or folder of images")
    add("--out", type=Path, metavar="FILE.csv", help="also write all predictions")
    add("--samples", type=positive, default=32, metavar="N", help="draws of the weights")
    add("--seed", type=count, default=0, help="of the draws")
    _add_output(parser)
    parser.set_defaults(run=_predict, interrupted="interrupted; nothing was written")


def _strength(text: str) -> float | str:
    return text if text == "auto" else float(text)


def _add_output(parser: argparse.ArgumentParser) -> None:
    """Add the options for what a command prints."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON alone")
    parser.add_argument("--quiet", action="store_true", help="print errors alone")


def _data(text: str) -> str:
    """Parse the name of a data set, or the path of the user's own data."""
    path = Path(text)
    if text in DATASETS or path.suffix.lower() in (".csv", ".npz") or path.is_dir():
        return text
    raise argparse.ArgumentTypeError(
        f"{text!r}: give {', '.join(DATASETS)}, a .csv or .npz file, or a folder of images"
    )


def _given(argv: Sequence[str]) -> dict[str, Any]:
    """Return only those options of `fit` that a command line names, without default values."""
    parser = build_parser()
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for action in commands.choices["fit"]._actions:
        action.default = argparse.SUPPRESS
    return vars(parser.parse_args(argv))


def _replicates(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _fit(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    if args.resume is True and args.out is None:
        raise ValueError("--resume needs the folder of the run: --resume DIR")
    if args.resume:
        preload("bayes_htr.commands")
        from bayes_htr.run_options import resumed

        args = resumed(args, _given(args.argv))
    if args.data == "digits" and args.data_dir is not None:
        raise ValueError("--data-dir: digits come with scikit-learn; leave it out, or name --data")
    if args.target is not None and not args.data.lower().endswith(".csv"):
        raise ValueError(
            f"--target {args.target} names a column, and --data {args.data} is no table"
        )
    for option in ("guide", "noise"):
        if (value := getattr(args, option)) is not None and args.method != "svi":
            raise ValueError(f"--{option} {value} is of svi; leave it out, or --method map")
    if args.shard and args.method != "map":
        raise ValueError("--shard is of map: svi holds whole weights; add --method map")
    if args.prior == "none" and args.method == "svi":
        raise ValueError("--prior none has no posterior to look for; add --method map")
    digits = ("sklearn.datasets", "sklearn.model_selection") if args.data == "digits" else ()
    preload("bayes_htr.commands", *digits, "matplotlib.pyplot")
    from bayes_htr.commands import run_fit

    return run_fit(args, console)


def _bench(args: argparse.Namespace, console: Console) -> None:
    command = shlex.join(["python", "-m", "benchmarks", *(args.words or ["--help"])])
    raise ValueError(f"benchmarks are run from a clone of the repository: {command}")


def _report(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    if is_silent():
        return {}
    preload("bayes_htr.commands", "matplotlib.pyplot")
    from bayes_htr.commands import show_run

    return show_run(args.folder, console)


def _predict(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    preload("bayes_htr.commands")
    from bayes_htr.commands import predict

    return predict(args, console)


def _completion(args: argparse.Namespace, console: Console) -> None:
    try:
        import shtab
    except ImportError as error:
        raise ImportError('completion needs shtab: pip install "bayes-htr[completion]"') from error
    parser = build_parser()
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for command in commands.choices.values():
        for action in command._actions:
            if action.type is Path:
                setattr(action, "complete", shtab.FILE)  # noqa: B010  (argparse does not know it)
    print(shtab.complete(parser, args.shell))


def _analyze(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    preload("bayes_htr.analysis.command", *(["matplotlib.pyplot"] if args.report else []))
    from bayes_htr.analysis.command import run_analyze

    return run_analyze(args, console)

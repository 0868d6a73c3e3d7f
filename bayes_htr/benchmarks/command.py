"""`bayes-htr bench ...`: the options of each benchmark, and how one is run and shown."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from bayes_htr.benchmarks.compared import METHODS
from bayes_htr.benchmarks.cost import CostSettings
from bayes_htr.benchmarks.gpu import Gpu, gpu_tables
from bayes_htr.benchmarks.growth import Growth, growth_tables
from bayes_htr.benchmarks.guide_runs import TIMED
from bayes_htr.benchmarks.guides import GuideBenchmark, GuideSettings, guide_tables
from bayes_htr.benchmarks.guides_picture import draw_guides
from bayes_htr.benchmarks.layers import LayerSettings
from bayes_htr.benchmarks.machine import machine_facts
from bayes_htr.benchmarks.naive import ENERGIES
from bayes_htr.benchmarks.overhead import NETS, Overhead, overhead_tables
from bayes_htr.benchmarks.parts import Part, perform
from bayes_htr.benchmarks.pictures import Limits, draw_growth, draw_overhead
from bayes_htr.benchmarks.posterior import OTHERS, PosteriorBenchmark, StudySettings
from bayes_htr.benchmarks.posterior_picture import draw_posterior
from bayes_htr.benchmarks.posterior_tables import posterior_tables, study_settings
from bayes_htr.benchmarks.results import Results
from bayes_htr.benchmarks.settings import DTYPES, REFRESHES, Training, refresh_policy
from bayes_htr.benchmarks.tables import TextTable, page, part_settings
from bayes_htr.engine import Drift

_Commands = argparse._SubParsersAction  # the type of what add_subparsers returns
_INTERRUPTED = "interrupted; the same command goes on with what is left to measure"


def add_bench(commands: _Commands[argparse.ArgumentParser]) -> None:
    """Add `bench` and its own commands to the command line."""
    what = "measure what priors and posteriors cost, and what they buy"
    bench = commands.add_parser("bench", help=what, description=f"{what[0].upper()}{what[1:]}.")
    kinds = bench.add_subparsers(title="benchmarks", required=True)
    _add_overhead(kinds)
    _add_growth(kinds)
    _add_gpu(kinds)
    _add_guides(kinds)
    _add_posterior(kinds)


def _add(
    kinds: _Commands[argparse.ArgumentParser], name: str, what: str, **defaults: object
) -> argparse.ArgumentParser:
    """A benchmark of training under priors, with the options that all of these have."""
    parser = _add_command(kinds, name, what)
    drift = Drift()
    add = parser.add_argument
    add("--priors", nargs="+", choices=ENERGIES, default=list(ENERGIES), help="the priors")
    add("--refresh", choices=REFRESHES, default="drift", help="when gradients are computed anew")
    add("--tol", type=float, default=drift.tol, help="relative drift allowed, for --refresh drift")
    add("--check-every", type=_positive, default=drift.check_every, help="steps between its checks")
    add("--every", type=_positive, default=10, help="steps from one to the next, for every")
    add(
        "--entry",
        choices=("backward", "loss"),
        default="backward",
        help="the prior enters by energy.backward(1 / num_data), or as a summand of the loss",
    )
    add(
        "--strength",
        type=_strength,
        default=1.0,
        help="power of the prior: a number, or `named` for what bayes-htr fit gives it",
    )
    add("--batch-size", type=_positive, default=128, help="examples per step")
    add("--lr", type=float, default=0.05, help="learning rate of SGD, momentum 0.9")
    add("--seed", type=int, default=0, help="of weights and of the order of the data")
    add("--warmup", type=_positive, default=5, help="steps of runs thrown away before timing")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    add("--dtype", choices=DTYPES, default="float32", help="of the forward pass, by autocast")
    parser.set_defaults(**defaults)
    return parser


def _add_command(
    kinds: _Commands[argparse.ArgumentParser], name: str, what: str
) -> argparse.ArgumentParser:
    """A benchmark with the options that all have."""
    parser = kinds.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}. Results go into --out as they are measured; "
        "what is there with the same settings is not measured again.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", required=True, help="folder of the results"
    )
    parser.add_argument("--threads", type=_positive, default=2, help="of PyTorch on the CPU")
    parser.set_defaults(interrupted=_INTERRUPTED)
    return parser


def _add_overhead(kinds: _Commands[argparse.ArgumentParser]) -> None:
    what = "time, gradients and accuracy with a prior, against plain training and exact gradients"
    parser = _add(kinds, "overhead", what, run=_overhead)
    cost = CostSettings()
    add = parser.add_argument
    add("--nets", nargs="+", choices=NETS, default=list(NETS), help="the networks")
    add("--data-dir", type=Path, metavar="DIR", help="folder of .npz files; without it: OpenML")
    _add_cost(parser, cost)
    add("--samples", type=_positive, default=60, help="steps at which gradients are compared")
    add("--resnet-steps", type=_positive, default=30, help="steps for the share of resnet18")
    add("--accuracy", action="store_true", help="compare test accuracies over --seeds; long")
    add("--seeds", type=_positive, default=10, help="seeds of --accuracy")
    limits = Limits()
    add("--limit-ratio", type=float, default=limits.ratio, help="marked in the picture")
    add("--limit-naive", type=float, default=limits.naive, help="marked in the picture")
    add("--limit-share", type=float, default=limits.share, help="marked in the picture")


def _add_growth(kinds: _Commands[argparse.ArgumentParser]) -> None:
    what = "time per step against the size of one matrix"
    parser = _add(kinds, "growth", what, run=_growth)
    parser.set_defaults(priors=["lomax"])
    sizes = [256, 512, 1024, 2048, 4096]
    _add_layer(parser, sizes, LayerSettings())


def _add_gpu(kinds: _Commands[argparse.ArgumentParser]) -> None:
    what = "a large network in bfloat16 and large layers, on random data"
    parser = _add(kinds, "gpu", what, run=_gpu)
    parser.set_defaults(device="cuda", dtype="bfloat16", batch_size=512)
    parser.add_argument(
        "--nets", nargs="*", choices=NETS, default=["resnet18"], help="for 32x32 colour images"
    )
    _add_cost(parser, CostSettings(steps=300, pairs=3, naive_steps=0))
    _add_layer(parser, [4096, 8192], LayerSettings(), "layer-")


def _add_guides(kinds: _Commands[argparse.ArgumentParser]) -> None:
    what = "time and memory of a step of SVI with each guide, against plain training and Pyro"
    parser = _add_command(kinds, "guides", what)
    guides = GuideSettings()
    add = parser.add_argument
    add("--runs", nargs="+", choices=TIMED, default=list(TIMED), help="what is timed")
    add("--rounds", type=_positive, default=guides.rounds, help="turns that each run has")
    add("--steps", type=_positive, default=guides.steps, help="steps of a run in its turn")
    add("--warmup", type=_positive, default=guides.warmup, help="steps before the clock runs")
    add("--memory-steps", type=_positive, default=guides.memory_steps, help="to measure memory")
    add("--examples", type=_positive, default=guides.examples, help="random images")
    add("--batch-size", type=_positive, default=guides.batch_size, help="examples per step")
    add("--seed", type=int, default=guides.seed, help="of networks and images")
    parser.set_defaults(run=_guides, device="cpu")


def _add_posterior(kinds: _Commands[argparse.ArgumentParser]) -> None:
    what = "scores of posteriors, ensembles and tuned MAP fits on test data"
    parser = _add_command(kinds, "posterior", what)
    study = StudySettings()
    add = parser.add_argument
    add("--data", nargs="+", choices=OTHERS, default=list(OTHERS), help="the data sets")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="the methods")
    add("--data-dir", type=Path, metavar="DIR", help="folder of .npz files; without it: OpenML")
    add("--seeds", type=_positive, default=study.seeds, help="seeds of each tuned method")
    add("--samples", type=_positive, default=study.samples, help="draws for a prediction")
    add("--batch-size", type=_positive, default=study.batch_size, help="examples per step")
    add("--train", type=_positive, default=study.train, help="training images, at most")
    add("--validation", type=_positive, default=study.validation, help="of them, to tune on")
    add("--ood", type=_positive, default=study.ood, help="images of the other data set, at most")
    add("--epochs", type=_positive, help="of every fit, instead of each method's own")
    parser.set_defaults(run=_posterior, device="cpu")


def _add_cost(parser: argparse.ArgumentParser, cost: CostSettings) -> None:
    add = parser.add_argument
    add("--steps", type=_positive, default=cost.steps, help="steps of a run")
    add("--pairs", type=_positive, default=cost.pairs, help="pairs of runs, plain and with prior")
    add("--turn", type=_positive, default=cost.turn, help="steps of a run until the other's turn")
    add("--naive-steps", type=_count, default=cost.naive_steps, help="steps with naive autograd")


def _add_layer(
    parser: argparse.ArgumentParser, sizes: Sequence[int], layer: LayerSettings, prefix: str = ""
) -> None:
    add = parser.add_argument
    nargs = "*" if prefix else "+"
    add("--sizes", nargs=nargs, type=_positive, default=list(sizes), help="rows and columns")
    add(f"--{prefix}steps", type=_positive, default=layer.steps, help="steps of a run of a layer")
    if prefix:
        return
    add("--naive-steps", type=_positive, default=layer.naive_steps, help="with naive autograd")
    add(
        "--naive-seconds",
        type=float,
        default=layer.naive_seconds,
        help="no step with naive autograd begins after so long",
    )


def _positive(text: str) -> int:
    return _at_least(text, 1)


def _count(text: str) -> int:
    return _at_least(text, 0)


def _at_least(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {least} on")
    return value


def _strength(text: str) -> float | None:
    return None if text == "named" else float(text)


def _training(args: argparse.Namespace) -> Training:
    return Training(
        batch_size=args.batch_size,
        lr=args.lr,
        seed=args.seed,
        device=args.device,
        dtype=args.dtype,
        refresh=refresh_policy(
            args.refresh, tol=args.tol, check_every=args.check_every, every=args.every
        ),
        entry=args.entry,
        strength=args.strength,
    )


def _cost(args: argparse.Namespace) -> CostSettings:
    return CostSettings(
        steps=args.steps,
        pairs=args.pairs,
        turn=args.turn,
        warmup=args.warmup,
        naive_steps=args.naive_steps,
    )


def _overhead(args: argparse.Namespace, console: Console) -> None:
    benchmark = Overhead(
        nets=args.nets,
        priors=args.priors,
        training=_training(args),
        cost=_cost(args),
        samples=args.samples,
        share_steps=args.resnet_steps,
        seeds=args.seeds if args.accuracy else 0,
        data_dir=args.data_dir,
    )
    limits = Limits(args.limit_ratio, args.limit_naive, args.limit_share)
    draw = partial(draw_overhead, limits=limits)
    _run(
        "overhead",
        "What a prior costs",
        _one_stage(benchmark.parts),
        overhead_tables,
        draw,
        args,
        console,
    )


def _growth(args: argparse.Namespace, console: Console) -> None:
    layer = LayerSettings(
        steps=args.steps,
        warmup=args.warmup,
        naive_steps=args.naive_steps,
        naive_seconds=args.naive_seconds,
    )
    benchmark = Growth(args.sizes, args.priors, _training(args), layer)
    title = "Time per step and size of a matrix"
    _run("growth", title, _one_stage(benchmark.parts), growth_tables, draw_growth, args, console)


def _gpu(args: argparse.Namespace, console: Console) -> None:
    layer = LayerSettings(steps=args.layer_steps, warmup=args.warmup)
    benchmark = Gpu(args.nets, args.sizes, args.priors, _training(args), _cost(args), layer)
    title = "Large networks and layers"
    _run("gpu", title, _one_stage(benchmark.parts), gpu_tables, lambda _: [], args, console)


def _guides(args: argparse.Namespace, console: Console) -> None:
    settings = GuideSettings(
        rounds=args.rounds,
        steps=args.steps,
        warmup=args.warmup,
        memory_steps=args.memory_steps,
        examples=args.examples,
        batch_size=args.batch_size,
        seed=args.seed,
    )
    stages = _one_stage(GuideBenchmark(args.runs, settings).parts)
    _run("guides", "What a guide costs", stages, guide_tables, draw_guides, args, console)


def _posterior(args: argparse.Namespace, console: Console) -> None:
    settings = StudySettings(
        seeds=args.seeds,
        samples=args.samples,
        batch_size=args.batch_size,
        train=args.train,
        validation=args.validation,
        ood=args.ood,
        epochs=args.epochs,
    )
    benchmark = PosteriorBenchmark(args.data, args.methods, settings, args.data_dir)
    title = "What the uncertainty of a posterior buys"
    _run(
        "posterior",
        title,
        benchmark.stages,
        posterior_tables,
        draw_posterior,
        args,
        console,
        study_settings,
    )


_Stages = Callable[[Results], Iterable[list[Part]]]
"""Parts by stage; those of a later one may depend on the results of an earlier one."""


def _one_stage(parts: Callable[[], list[Part]]) -> _Stages:
    return lambda _: [parts()]


def _run(
    name: str,
    title: str,
    stages: _Stages,
    tables: Callable[[Results], list[TextTable]],
    draw: Callable[[Results], list[Path]],
    args: argparse.Namespace,
    console: Console,
    settings: Callable[[Results], list[str]] = part_settings,
) -> None:
    """Measure what is missing, print the tables, and write them and the pictures."""
    device = _device(args.device)
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        results = Results(args.out, name, machine_facts(device, args.argv))
        for parts in stages(results):
            perform(parts, results, console)
    finally:
        torch.set_num_threads(before)
    found = tables(results)
    for table in found:
        table.show(console)
    written = [
        results.file,
        results.write(f"{name}.md", page(results, title, found, settings(results))),
    ]
    try:
        written += draw(results)
    except ImportError as error:
        console.print(f"no pictures: {error}", markup=False)
    for path in written:
        console.print(f"written: {path}", markup=False, highlight=False, soft_wrap=True)


def _device(name: str) -> torch.device:
    """A device by name.

    Raises:
        ValueError: There is no such device here.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"--device {name}: not available here ({str(error).splitlines()[0]}); take cpu"
        ) from error
    return device

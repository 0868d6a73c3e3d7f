"""`python -m benchmarks overhead | growth | gpu | guides`: their options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from bayes_htr._terminal import count, positive
from bayes_htr.engine import Drift
from benchmarks.common.running import Commands, add_command, run_benchmark
from benchmarks.cost.gpu import Gpu, gpu_tables
from benchmarks.cost.growth import Growth, growth_tables
from benchmarks.cost.guide_runs import TIMED
from benchmarks.cost.guides import GuideBenchmark, GuideSettings, guide_tables
from benchmarks.cost.guides_picture import draw_guides
from benchmarks.cost.layers import LayerSettings
from benchmarks.cost.naive import ENERGIES
from benchmarks.cost.overhead import MEASURED, NETS, Overhead, overhead_tables
from benchmarks.cost.pictures import Limits, draw_growth, draw_overhead
from benchmarks.cost.ratio import CostSettings
from benchmarks.cost.settings import DTYPES, REFRESHES, Training, refresh_policy


def _add(
    kinds: Commands[argparse.ArgumentParser], name: str, what: str, **defaults: object
) -> argparse.ArgumentParser:
    """A benchmark of training under a prior."""
    parser = add_command(kinds, name, what)
    drift = Drift()
    add = parser.add_argument
    add("--priors", nargs="+", choices=ENERGIES, default=list(ENERGIES), help="the priors")
    add("--refresh", choices=REFRESHES, default="drift", help="when gradients are computed anew")
    add("--tol", type=float, default=drift.tol, help="relative drift allowed, for --refresh drift")
    add("--check-every", type=positive, default=drift.check_every, help="steps between its checks")
    add("--every", type=positive, default=10, help="steps from one to the next, for every")
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
    add("--batch-size", type=positive, default=128, help="examples per step")
    add("--lr", type=float, default=0.05, help="learning rate of SGD, momentum 0.9")
    add("--seed", type=int, default=0, help="of weights and of the order of the data")
    add("--warmup", type=positive, default=5, help="steps of runs thrown away before timing")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    add("--dtype", choices=DTYPES, default="float32", help="of the forward pass, by autocast")
    parser.set_defaults(**defaults)
    return parser


def add_overhead(kinds: Commands[argparse.ArgumentParser]) -> None:
    """Add `overhead`."""
    what = "time, gradients and accuracy with a prior, against plain training and exact gradients"
    parser = _add(kinds, "overhead", what, run=_overhead)
    cost = CostSettings()
    add = parser.add_argument
    add("--nets", nargs="+", choices=NETS, default=list(NETS), help="the networks")
    add("--data-dir", type=Path, metavar="DIR", help="folder of .npz files; without it: OpenML")
    _add_cost(parser, cost)
    add("--samples", type=positive, default=60, help="steps at which gradients are compared")
    add("--resnet-steps", type=positive, default=30, help="steps for the share of resnet18")
    add(
        "--measure",
        nargs="+",
        choices=MEASURED,
        default=list(MEASURED[:-1]),
        help="what is measured; accuracy, over --seeds, takes long",
    )
    add("--seeds", type=positive, default=10, help="seeds of --measure accuracy")
    limits = Limits()
    add("--limit-ratio", type=float, default=limits.ratio, help="marked in the picture")
    add("--limit-naive", type=float, default=limits.naive, help="marked in the picture")
    add("--limit-share", type=float, default=limits.share, help="marked in the picture")


def add_growth(kinds: Commands[argparse.ArgumentParser]) -> None:
    """Add `growth`."""
    what = "time per step against the size of one matrix"
    parser = _add(kinds, "growth", what, run=_growth)
    parser.set_defaults(priors=["lomax"])
    sizes = [256, 512, 1024, 2048, 4096]
    _add_layer(parser, sizes, LayerSettings())


def add_gpu(kinds: Commands[argparse.ArgumentParser]) -> None:
    """Add `gpu`."""
    what = "a large network in bfloat16 and large layers, on random data"
    parser = _add(kinds, "gpu", what, run=_gpu)
    parser.set_defaults(device="cuda", dtype="bfloat16", batch_size=512)
    parser.add_argument(
        "--nets", nargs="*", choices=NETS, default=["resnet18"], help="for 32x32 colour images"
    )
    _add_cost(parser, CostSettings(steps=300, pairs=3, naive_steps=0))
    _add_layer(parser, [4096, 8192], LayerSettings(), "layer-")


def add_guides(kinds: Commands[argparse.ArgumentParser]) -> None:
    """Add `guides`."""
    what = "time and memory of a step of SVI with each guide, against plain training and Pyro"
    parser = add_command(kinds, "guides", what)
    guides = GuideSettings()
    add = parser.add_argument
    add("--runs", nargs="+", choices=TIMED, default=list(TIMED), help="what is timed")
    add("--rounds", type=positive, default=guides.rounds, help="turns that each run has")
    add("--steps", type=positive, default=guides.steps, help="steps of a run in its turn")
    add("--warmup", type=positive, default=guides.warmup, help="steps before the clock runs")
    add("--memory-steps", type=positive, default=guides.memory_steps, help="to measure memory")
    add("--examples", type=positive, default=guides.examples, help="random images")
    add("--batch-size", type=positive, default=guides.batch_size, help="examples per step")
    add("--seed", type=int, default=guides.seed, help="of networks and images")
    parser.set_defaults(run=_guides)


def _add_cost(parser: argparse.ArgumentParser, cost: CostSettings) -> None:
    add = parser.add_argument
    add("--steps", type=positive, default=cost.steps, help="steps of a run")
    add("--pairs", type=positive, default=cost.pairs, help="pairs of runs, plain and with prior")
    add("--turn", type=positive, default=cost.turn, help="steps of a run until the other's turn")
    add("--naive-steps", type=count, default=cost.naive_steps, help="steps with naive autograd")


def _add_layer(
    parser: argparse.ArgumentParser, sizes: Sequence[int], layer: LayerSettings, prefix: str = ""
) -> None:
    add = parser.add_argument
    nargs = "*" if prefix else "+"
    add("--sizes", nargs=nargs, type=positive, default=list(sizes), help="rows and columns")
    add(f"--{prefix}steps", type=positive, default=layer.steps, help="steps of a run of a layer")
    if prefix:
        return
    add("--naive-steps", type=positive, default=layer.naive_steps, help="with naive autograd")
    add(
        "--naive-seconds",
        type=float,
        default=layer.naive_seconds,
        help="no step with naive autograd begins after so long",
    )


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
        measure=args.measure,
        seeds=args.seeds,
        data_dir=args.data_dir,
    )
    limits = Limits(args.limit_ratio, args.limit_naive, args.limit_share)
    draw = partial(draw_overhead, limits=limits)
    run_benchmark("overhead", "What a prior costs", benchmark, overhead_tables, draw, args, console)


def _growth(args: argparse.Namespace, console: Console) -> None:
    layer = LayerSettings(
        steps=args.steps,
        warmup=args.warmup,
        naive_steps=args.naive_steps,
        naive_seconds=args.naive_seconds,
    )
    benchmark = Growth(args.sizes, args.priors, _training(args), layer)
    title = "Time per step and size of a matrix"
    run_benchmark("growth", title, benchmark, growth_tables, draw_growth, args, console)


def _gpu(args: argparse.Namespace, console: Console) -> None:
    layer = LayerSettings(steps=args.layer_steps, warmup=args.warmup)
    benchmark = Gpu(args.nets, args.sizes, args.priors, _training(args), _cost(args), layer)
    title = "Large networks and layers"
    run_benchmark("gpu", title, benchmark, gpu_tables, lambda _: [], args, console)


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
    benchmark = GuideBenchmark(args.runs, settings)
    title = "What a guide costs"
    run_benchmark("guides", title, benchmark, guide_tables, draw_guides, args, console)

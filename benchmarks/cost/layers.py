"""`python -m benchmarks growth` and `gpu`: single layers by size, and large networks.

A layer is a linear model of `n` inputs and `n` classes. All data are random.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bayes_htr._plotting import (
    BLUE,
    GREY,
    RED,
    WIDEST,
    new_panels,
    styled,
)
from bayes_htr.experiments import NETWORKS, build_network
from benchmarks.common.pictures import grid, log_axis, save
from benchmarks.common.results import Results
from benchmarks.common.running import Benchmark, Part, from_options, positive
from benchmarks.common.stopwatch import Stopwatch, Tick, no_collection, take_turns
from benchmarks.common.tables import TextTable, counts, spread
from benchmarks.cost.sharded_layers import PART, measure_sharded, sharded_table
from benchmarks.cost.timing import CostSettings, add_cost, measure_cost
from benchmarks.cost.training import Case, Training, add_training, random_data, training_of
from benchmarks.sharded import LAWS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_IMAGE, _CLASSES, _BATCHES = (3, 32, 32), 10, 8
_LAYER_BATCH = 128
"""The most examples per step of a single layer in `gpu`."""
_LINES = {
    "plain_ms": ("plain", GREY, "s"),
    "ours_ms": ("ours", BLUE, "o"),
    "naive_ms": ("naive autograd", RED, "^"),
}
"""What is timed, by its name in a result: label, colour and marker."""


@dataclass(frozen=True)
class LayerSettings:
    """How long and how often a layer is timed.

    Attributes:
        steps: Steps with and without the prior, refreshes included.
        turn: Steps that a run takes before it is the turn of the other.
        warmup: Steps of runs that are thrown away first.
        naive_steps: The most steps with naive autograd.
        naive_seconds: No step with naive autograd begins after so many seconds.
        repeats: How often a single refresh or decomposition is timed.
    """

    steps: int = 200
    turn: int = 20
    warmup: int = 3
    naive_steps: int = 5
    naive_seconds: float = 120.0
    repeats: int = 3


def layer_case(n: int, prior: str, training: Training) -> Case:
    """Return an `n x n` layer under a prior, with eight batches of random data."""

    def build(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return nn.Sequential(nn.Linear(n, n, bias=False))

    data = random_data(_BATCHES * training.batch_size, (n,), n, training.seed)
    return Case(build, *data, training, prior)


def _network_case(net: str, prior: str, training: Training) -> Case:
    def build(seed: int) -> nn.Module:
        return build_network(net, _IMAGE, _CLASSES, seed=seed)

    data = random_data(_BATCHES * training.batch_size, _IMAGE, _CLASSES, training.seed)
    return Case(build, *data, training, prior)


def measure_growth(
    case: Case, settings: LayerSettings, watch: Stopwatch, tick: Tick
) -> dict[str, Any]:
    """Milliseconds per step, plain, with the prior, and with naive autograd.

    Returns:
        `plain_ms`, `ours_ms` (over all steps, refreshes included), `naive_ms`, `naive_steps` and
        `refreshes`.
    """
    per_step = _per_step(case, settings, watch, tick)
    # A small matrix warms up what does not depend on the size.
    layer_case(64, case.prior, case.training).naive_run().steps(1)
    naive = case.naive_run()
    seconds: list[float] = []
    with no_collection():
        while len(seconds) < settings.naive_steps and sum(seconds) < settings.naive_seconds:
            seconds.append(watch(partial(naive.steps, 1)))
            tick(1)
    naive_ms = 1e3 * sum(seconds) / len(seconds)
    return {**per_step, "naive_ms": naive_ms, "naive_steps": len(seconds)}


def measure_refresh(
    case: Case, settings: LayerSettings, watch: Stopwatch, tick: Tick
) -> dict[str, Any]:
    """Milliseconds per step, plain and with the prior, and of a first refresh and of `eigh`.

    Returns:
        `plain_ms`, `ours_ms` (over all steps), `refreshes`, `refresh_ms` (the first call of a fresh
        energy, a median) and `eigh_ms` (`eigh` of the Gram matrix).
    """
    per_step = _per_step(case, settings, watch, tick)
    net = case.network()
    (weight,) = net.parameters()
    weight.grad = torch.zeros_like(weight)
    W = weight.detach()
    return {
        **per_step,
        "refresh_ms": _repeated(lambda: case.with_prior(net).alone, settings.repeats, watch),
        "eigh_ms": _repeated(lambda: partial(_eigh, W), settings.repeats, watch),
    }


def _per_step(case: Case, settings: LayerSettings, watch: Stopwatch, tick: Tick) -> dict[str, Any]:
    for run in (case.plain_run(), case.prior_run()):
        run.steps(settings.warmup)
    plain, ours = case.plain_run(), case.prior_run()
    seconds = take_turns((plain, ours), settings.steps, settings.turn, watch, tick)
    plain_ms, ours_ms = (1e3 * s / settings.steps for s in seconds)
    refreshes = sum(ours.prior.energy.refreshes.values())
    return {"plain_ms": plain_ms, "ours_ms": ours_ms, "refreshes": refreshes}


def _repeated(prepare: Callable[[], Callable[[], object]], repeats: int, watch: Stopwatch) -> float:
    """The median of timings in milliseconds, each freshly prepared; a first one does not count."""
    prepare()()
    with no_collection():
        return 1e3 * median(watch(prepare()) for _ in range(repeats))


def _eigh(W: Tensor) -> None:
    torch.linalg.eigh(W.T @ W)


def _layer_part(
    name: str,
    measure: Callable[..., dict[str, Any]],
    work: int,
    n: int,
    prior: str,
    training: Training,
    settings: LayerSettings,
) -> Part:
    watch = Stopwatch(torch.device(training.device))

    def measured(tick: Tick) -> dict[str, Any]:
        return measure(layer_case(n, prior, training), settings, watch, tick)

    return Part(f"{n}/{prior}", name, work, measured, {**training.to_dict(), **vars(settings)})


def _add_sizes(parser: argparse.ArgumentParser, nargs: str, sizes: Sequence[int]) -> None:
    help_text = "rows and columns"
    parser.add_argument("--sizes", nargs=nargs, type=positive, default=list(sizes), help=help_text)


# growth


def _add_growth(parser: argparse.ArgumentParser) -> None:
    add_training(parser)
    _add_sizes(parser, "+", [256, 512, 1024, 2048, 4096])
    layer = LayerSettings()
    add = parser.add_argument
    add("--steps", type=positive, default=layer.steps, help="steps of a run of a layer")
    add("--naive-steps", type=positive, default=layer.naive_steps, help="with naive autograd")
    add(
        "--naive-seconds",
        type=float,
        default=layer.naive_seconds,
        help="no step with naive autograd begins after so long",
    )
    parser.set_defaults(priors=["lomax"])


def _growth_parts(args: argparse.Namespace) -> list[Part]:
    layer = from_options(LayerSettings, args)
    work = 2 * layer.steps + layer.naive_steps
    return [
        _layer_part("growth", measure_growth, work, n, prior, training_of(args), layer)
        for n in sorted(args.sizes)
        for prior in args.priors
    ]


def _growth_points(results: Results) -> dict[str, dict[int, dict[str, float]]]:
    """Results by prior and size, sizes ascending."""
    points: dict[str, dict[int, dict[str, float]]] = {}
    for cell in sorted(results.cells, key=lambda cell: int(cell.split("/")[0])):
        size, prior = cell.split("/")
        result = results.result(cell, "growth")
        if result is not None:
            points.setdefault(prior, {})[int(size)] = result
    return points


def growth_tables(results: Results) -> list[TextTable]:
    """Milliseconds per step and their ratios."""
    rows = [
        [
            str(size),
            prior,
            *(f"{r[name]:.3g}" for name in _LINES),
            f"{r['ours_ms'] / r['plain_ms']:.3f}",
            f"{r['naive_ms'] / r['ours_ms']:.1f}",
            str(r["refreshes"]),
        ]
        for prior, sizes in _growth_points(results).items()
        for size, r in sizes.items()
    ]
    columns = ("n", "prior", *(f"{label} ms" for label, _, _ in _LINES.values()))
    more = ("ratio to plain", "naive / ours", "refreshes")
    return [TextTable("Time per step of an n x n layer", (*columns, *more), rows)]


@styled
def draw_growth(results: Results, args: argparse.Namespace) -> list[Path]:
    """Write `growth.png`: time per step against the size on log-log axes, a panel for each prior.

    Raises:
        ImportError: matplotlib is not installed.
    """
    points = _growth_points(results)
    if not points:
        return []
    figure, axes = new_panels(1, len(points), WIDEST * min(len(points), 2) / 2, 3.9, sharey=True)
    for ax, (prior, sizes) in zip(axes, points.items(), strict=True):
        _draw_sizes(ax, sizes)
        ax.set_title(prior)
    axes[0].set_ylabel("milliseconds per step")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return [save(figure, results.folder / "growth.png")]


def _draw_sizes(ax: Axes, sizes: dict[int, dict[str, float]]) -> None:
    n = list(sizes)
    for name, (label, color, marker) in _LINES.items():
        ax.plot(n, [sizes[k][name] for k in n], marker=marker, color=color, label=label, ms=5)
    ax.set_xscale("log", base=2)
    ax.set_xticks(n, [str(k) for k in n])
    ax.minorticks_off()
    log_axis(ax)
    ax.set_xlabel("rows and columns of the matrix")
    grid(ax)


GROWTH = Benchmark(
    "growth",
    "time per step against the size of one matrix",
    "Time per step and size of a matrix",
    _add_growth,
    _growth_parts,
    growth_tables,
    draw_growth,
)


# gpu


def _add_gpu(parser: argparse.ArgumentParser) -> None:
    add_training(parser)
    add = parser.add_argument
    default = ["resnet18"]
    add("--nets", nargs="*", choices=NETWORKS, default=default, help="for 32x32 colour images")
    add_cost(parser, CostSettings(steps=300, pairs=3, naive_steps=0))
    _add_sizes(parser, "*", [4096, 8192])
    steps = LayerSettings().steps
    add("--layer-steps", type=positive, default=steps, help="steps of a run of a layer")
    add("--processes", type=positive, help="those that shard weights; default: one for each GPU")
    parser.set_defaults(device="cuda", dtype="bfloat16", batch_size=512)


def _gpu_parts(args: argparse.Namespace) -> list[Part]:
    """Networks, then layers, then layers that processes shard."""
    training, cost = training_of(args), from_options(CostSettings, args)
    watch = Stopwatch(torch.device(training.device))
    networks = [
        Part(
            f"{net}/{prior}",
            "cost",
            cost.work,
            partial(measure_cost, _network_case(net, prior, training), cost, watch),
            {**training.to_dict(), **vars(cost)},
        )
        for net in args.nets
        for prior in args.priors
    ]
    small = replace(training, batch_size=min(training.batch_size, _LAYER_BATCH))
    layer = LayerSettings(steps=args.layer_steps, warmup=args.warmup)
    layers = [
        _layer_part("layer", measure_refresh, 2 * layer.steps, n, prior, small, layer)
        for n in args.sizes
        for prior in args.priors
    ]
    processes = args.processes or max(1, torch.cuda.device_count())
    sharded = {"device": training.device, "processes": processes, "threads": args.threads}
    return [
        *networks,
        *layers,
        *(
            Part(f"{n}/{law}", PART, 1, partial(measure_sharded, law, n, **sharded), sharded)
            for n in args.sizes
            for law in LAWS
        ),
    ]


def gpu_tables(results: Results) -> list[TextTable]:
    """Networks, layers, and layers that processes shard."""
    networks = [
        [
            *cell.split("/"),
            f"{r['plain_ms']:.2f}",
            f"{r['prior_ms']:.2f}",
            spread(r["ratio"]),
            counts(r["refreshes"]),
        ]
        for cell in results.cells
        if (r := results.result(cell, "cost")) is not None
    ]
    layers = [
        [
            *cell.split("/"),
            f"{r['plain_ms']:.2f}",
            f"{r['ours_ms']:.2f}",
            f"{r['ours_ms'] / r['plain_ms']:.3f}",
            str(r["refreshes"]),
            f"{r['refresh_ms']:.1f}",
            f"{r['eigh_ms']:.1f}",
            f"{r['eigh_ms'] / r['refresh_ms']:.1f}",
        ]
        for cell in results.cells
        if (r := results.result(cell, "layer")) is not None
    ]
    columns = ("prior", "plain ms", "ours ms", "ratio", "refreshes")
    refresh = ("first refresh ms", "eigh ms", "eigh / refresh")
    tables = [
        TextTable("Networks", ("network", *columns), networks),
        TextTable("Layers", ("n", *columns, *refresh), layers),
        sharded_table(results),
    ]
    return [table for table in tables if table.rows]


GPU = Benchmark(
    "gpu",
    "a large network in bfloat16, large layers, and layers that processes shard, on random data",
    "Large networks and layers",
    _add_gpu,
    _gpu_parts,
    gpu_tables,
)

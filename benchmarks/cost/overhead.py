"""`python -m benchmarks overhead`: what a prior costs in training, for each network and prior."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from bayes_htr._plotting import (
    GREY,
    INK,
    PALETTE,
    WIDEST,
    new_panels,
    pyplot,
    styled,
)
from bayes_htr.experiments import Dataset, build_network, load_dataset
from benchmarks.common.paired import Difference, student_difference
from benchmarks.common.pictures import grid, log_axis, save
from benchmarks.common.results import Results
from benchmarks.common.running import Benchmark, Part, from_options, positive
from benchmarks.common.stopwatch import Stopwatch
from benchmarks.common.tables import NOTHING, TextTable, counts, number, spread
from benchmarks.cost.quality import WHOLE, measure_accuracy, measure_quality
from benchmarks.cost.timing import CostSettings, add_cost, measure_cost, measure_share
from benchmarks.cost.training import Case, Training, add_training, training_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Net(NamedTuple):
    """A network: its data set, and whether only the share of the prior is measured."""

    data: str
    share_alone: bool


NETS = {
    "mlp": Net("kmnist", share_alone=False),
    "lenet5": Net("cifar10", share_alone=False),
    "resnet18": Net("cifar10", share_alone=True),
}
_MEASURED = ("cost", "share", "quality", "accuracy")
_COLORS = PALETTE
_LIMIT = INK


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_training(parser)
    add = parser.add_argument
    add("--nets", nargs="+", choices=NETS, default=list(NETS), help="the networks")
    add("--data-dir", type=Path, metavar="DIR", help="folder of .npz files; without it: OpenML")
    add_cost(parser, CostSettings())
    add("--samples", type=positive, default=60, help="steps at which gradients are compared")
    add("--resnet-steps", type=positive, default=30, help="steps for the share of resnet18")
    add(
        "--measure",
        nargs="+",
        choices=_MEASURED,
        default=list(_MEASURED[:-1]),
        help="what is measured; accuracy, over --seeds, takes long",
    )
    add("--seeds", type=positive, default=10, help="seeds of --measure accuracy")
    for limit, default in (("ratio", None), ("naive", None), ("share", 0.03)):
        add(f"--limit-{limit}", type=float, default=default, help="marked in the picture")


def _parts(args: argparse.Namespace) -> list[Part]:
    """Return all parts, the timed ones first."""
    loaded: dict[str, Dataset] = {}
    parts: list[Part] = []
    for net in args.nets:
        name = NETS[net].data
        if name not in loaded:
            loaded[name] = load_dataset(name, args.data_dir)
        for prior in args.priors:
            parts += _cell(net, prior, loaded[name], training_of(args), args)

    def kind(part: Part) -> str:
        return part.name.partition("/")[0]

    wanted = [part for part in parts if kind(part) in args.measure]
    return sorted(wanted, key=lambda part: _MEASURED.index(kind(part)))


def _cell(
    net: str, prior: str, data: Dataset, training: Training, args: argparse.Namespace
) -> list[Part]:
    cell = f"{net}/{prior}"

    def build(seed: int) -> torch.nn.Module:
        return build_network(net, data.input_shape, data.num_classes, seed=seed)

    case = Case(build, data.x_train, data.y_train, training, prior)
    common = {**training.to_dict(), "strength": case.strength, "num_data": case.num_data}
    watch, cost = Stopwatch(case.device), from_options(CostSettings, args)
    steps, test = cost.steps, (data.x_test, data.y_test)

    def part(
        name: str, work: int, measure: Callable[..., dict[str, Any]], *given: Any, **settings: Any
    ) -> Part:
        return Part(cell, name, work, partial(measure, *given), {**common, **settings})

    if NETS[net].share_alone:
        own = {"steps": args.resnet_steps, "warmup": cost.warmup}
        return [part("share", args.resnet_steps, measure_share, case, *own.values(), watch, **own)]
    samples = args.samples
    accuracies = [
        part(
            f"accuracy/{seed}",
            2 * steps,
            measure_accuracy,
            *(case.seeded(seed), steps, test),
            steps=steps,
            seed=seed,
        )
        for seed in range(args.seeds)
    ]
    return [
        part("cost", cost.work, measure_cost, case, cost, watch, **vars(cost)),
        part(
            "quality",
            4 * steps,
            measure_quality,
            *(case, steps, samples, test),
            steps=steps,
            samples=samples,
        ),
        *accuracies,
    ]


# Tables


def overhead_tables(results: Results) -> list[TextTable]:
    """Costs, quality, shares and accuracies, as far as they have been measured."""
    tables = [
        TextTable(
            title,
            ("network", "prior", *columns),
            [
                [*cell.split("/"), *row(result)]
                for cell in results.cells
                if (result := results.result(cell, part)) is not None
            ],
        )
        for part, title, columns, row in _TABLES
    ]
    differences = {cell: accuracy_difference(results, cell) for cell in results.cells}
    rows = [[*cell.split("/"), *_accuracy_row(d)] for cell, d in differences.items() if d]
    columns = ("network", "prior", "mean difference", "95 % interval", "seeds")
    tables.append(TextTable("Test accuracy over seeds, cached minus exact", columns, rows))
    return [table for table in tables if table.rows]


def _cost_row(result: dict[str, Any]) -> list[str]:
    naive = result["naive"]
    return [
        f"{result['plain_ms']:.2f}",
        f"{result['prior_ms']:.2f}",
        spread(result["ratio"]),
        NOTHING if naive is None else f"{naive['ratio']:.1f}",
        counts(result["refreshes"]),
    ]


def _quality_row(result: dict[str, Any]) -> list[str]:
    cosine, top = result["cosine"], result["top"]
    single = [found["value"] for matrix, found in cosine.items() if matrix != WHOLE]
    return [
        number(min(single, default=None), ".5f"),
        number(cosine.get(WHOLE, {}).get("value"), ".5f"),
        number(min((found["value"] for found in top.values()), default=None), ".5f"),
        f"{result['accuracy']['cached']:.4f}",
        f"{result['accuracy']['exact']:.4f}",
    ]


def _energy_row(result: dict[str, Any]) -> list[str]:
    energy = result["energy"]

    def off(name: str) -> str:
        cached, chance = (number(energy[name + end], ".2%") for end in ("", "_disturbed"))
        return f"{cached} ({chance})"

    ends = [f"{energy[name]:.2f}" for name in ("start", "plain", "exact", "cached")]
    return [*ends, off("relative"), off("of_effect")]


def _share_row(result: dict[str, Any]) -> list[str]:
    return [
        f"{1e3 * result['total_seconds'] / result['steps']:.1f}",
        f"{result['share']:.2%}",
        number(result["later_share"], ".2%"),
        counts(result["refreshes"]),
    ]


def accuracy_difference(results: Results, cell: str) -> Difference | None:
    """Test accuracy with cached gradients minus that with exact ones, over the seeds of a cell.

    Of seeds that were run with different settings, those of the last run count.
    """
    seeds = [part for name, part in results.cells[cell].items() if name.startswith("accuracy/")]
    if not seeds:
        return None
    last = max(seeds, key=lambda part: part["run"])["settings"]
    found = [p["result"] for p in seeds if {**p["settings"], "seed": last["seed"]} == last]
    return student_difference([r["cached"] for r in found], [r["exact"] for r in found])


def _accuracy_row(d: Difference) -> list[str]:
    interval = f"{d.low:+.4f} to {d.high:+.4f}" if d.pairs > 1 else NOTHING
    return [f"{d.mean:+.4f}", interval, str(d.pairs)]


_TABLES = (
    (
        "cost",
        "Time of training",
        ("plain ms", "ours ms", "ratio (range)", "naive / ours", "refreshes"),
        _cost_row,
    ),
    (
        "quality",
        "Cached compared with exact gradients (cached, exact: test accuracy)",
        ("lowest cosine", "of all matrices", "lowest u'Wv/σ₁", "cached", "exact"),
        _quality_row,
    ),
    (
        "quality",
        "Energy at the end: cached (and disturbed) compared with exact gradients",
        ("start", "plain", "exact", "cached", "off / drop", "off / effect"),
        _energy_row,
    ),
    (
        "share",
        "The prior's share of a step",
        ("step ms", "share", "share after the first step", "refreshes"),
        _share_row,
    ),
)


# The picture


class _Point(NamedTuple):
    """A value with its range, of a network and a prior."""

    net: str
    prior: str
    value: float
    low: float
    high: float


class _Panel(NamedTuple):
    """A kind of ratio: its points, its limit with the side of it that is good, and a baseline."""

    label: str
    points: list[_Point]
    limit: float | None
    bound: str
    baseline: float


@styled
def draw_overhead(results: Results, args: argparse.Namespace) -> list[Path]:
    """Write `overhead.png`: a panel for each kind of ratio that has been measured.

    Raises:
        ImportError: matplotlib is not installed.
    """
    panels = [panel for panel in _panels(results, args) if panel.points]
    if not panels:
        return []
    figure, axes = new_panels(1, len(panels), WIDEST * len(panels) / 3, 3.6)
    priors = list(dict.fromkeys(cell.split("/")[1] for cell in results.cells))
    for ax, panel in zip(axes, panels, strict=True):
        _draw_panel(ax, panel, priors)
    handles = [pyplot().Line2D([], [], color=_color(p, priors), marker="o", ls="") for p in priors]
    figure.legend(handles, priors, loc="outside upper center", ncols=len(priors))
    return [save(figure, results.folder / "overhead.png")]


def _panels(results: Results, args: argparse.Namespace) -> list[_Panel]:
    times, naives, shares = [], [], []
    for cell in results.cells:
        net, prior = cell.split("/")
        if cost := results.result(cell, "cost"):
            r = cost["ratio"]
            times.append(_Point(net, prior, r["median"], r["min"], r["max"]))
            if cost["naive"] is not None:
                ratio = cost["naive"]["ratio"]
                naives.append(_Point(net, prior, ratio, ratio, ratio))
        if share := results.result(cell, "share"):
            percent = 100 * share["share"]
            shares.append(_Point(net, prior, percent, percent, percent))
    most = None if args.limit_share is None else 100 * args.limit_share
    return [
        _Panel("time with the prior / plain training", times, args.limit_ratio, "at most", 1.0),
        _Panel("time of naive autograd / ours", naives, args.limit_naive, "at least", 1.0),
        _Panel("the prior's share of a step, %", shares, most, "at most", 0.0),
    ]


def _draw_panel(ax: Axes, panel: _Panel, priors: Sequence[str]) -> None:
    nets = list(dict.fromkeys(point.net for point in panel.points))
    width = 0.6 / max(1, len(priors) - 1)
    for point in panel.points:
        shift = (priors.index(point.prior) - (len(priors) - 1) / 2) * width
        ax.errorbar(
            nets.index(point.net) + shift,
            point.value,
            yerr=[[point.value - point.low], [point.high - point.value]],
            fmt="o",
            ms=5,
            capsize=3 if point.high > point.low else 0,
            color=_color(point.prior, priors),
        )
    ax.set_xticks(range(len(nets)), nets)
    ax.set_xlim(-0.6, len(nets) - 0.4)
    ax.margins(y=0.15)
    grid(ax, "y")
    ax.set_ylabel(panel.label)
    ax.axhline(panel.baseline, color=GREY, lw=1)
    if panel.limit is not None:
        ax.axhline(panel.limit, color=_LIMIT, lw=1, ls="--")
        ax.set_title(f"dashed: {panel.bound} {panel.limit:g}")
    if panel.baseline > 0 and max(p.high for p in panel.points) > 20:
        log_axis(ax)


def _color(prior: str, priors: Sequence[str]) -> str:
    return _COLORS[priors.index(prior) % len(_COLORS)]


OVERHEAD = Benchmark(
    "overhead",
    "time, gradients and accuracy with a prior, against plain training and exact gradients",
    "What a prior costs",
    _add_options,
    _parts,
    overhead_tables,
    draw_overhead,
)

"""`python -m benchmarks overhead`: what a prior costs in training, for each network and prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bayes_htr.experiments import Dataset, build_network, load_dataset
from benchmarks.common.paired_mean import paired_difference
from benchmarks.common.parts import Part
from benchmarks.common.results import Results
from benchmarks.common.stopwatch import Stopwatch
from benchmarks.common.tables import NOTHING, TextTable, counts, number, spread
from benchmarks.cost.quality import WHOLE, measure_accuracy, measure_quality
from benchmarks.cost.ratio import CostSettings, measure_cost
from benchmarks.cost.settings import Case, Training
from benchmarks.cost.share import measure_share


class Net(NamedTuple):
    """A network of the benchmark: its data set, and whether only the prior's share is measured."""

    data: str
    share_alone: bool


NETS = {
    "mlp": Net("kmnist", share_alone=False),
    "lenet5": Net("cifar10", share_alone=False),
    "resnet18": Net("cifar10", share_alone=True),
}


MEASURED = ("cost", "share", "quality", "accuracy")


@dataclass(frozen=True)
class Overhead:
    """The whole benchmark.

    Attributes:
        nets: Keys of `NETS`.
        priors: Keys of `naive.ENERGIES`.
        training: How networks are trained.
        cost: How long and how often it is timed.
        samples: At about how many steps gradients are compared.
        share_steps: Steps of networks of which only the prior's share is measured.
        measure: Some of `MEASURED`.
        seeds: With how many seeds test accuracies are compared.
        data_dir: Where the data sets are.
    """

    nets: Sequence[str]
    priors: Sequence[str]
    training: Training
    cost: CostSettings
    samples: int = 60
    share_steps: int = 30
    measure: Sequence[str] = ("cost", "share", "quality")
    seeds: int = 10
    data_dir: Path | None = None

    def parts(self) -> list[Part]:
        """All parts, the timed ones first."""
        loaded: dict[str, Dataset] = {}
        parts: list[Part] = []
        for net in self.nets:
            name = NETS[net].data
            if name not in loaded:
                loaded[name] = load_dataset(name, self.data_dir)
            for prior in self.priors:
                parts += self._cell(net, prior, loaded[name])

        def kind(part: Part) -> str:
            return part.name.partition("/")[0]

        wanted = [part for part in parts if kind(part) in self.measure]
        return sorted(wanted, key=lambda part: MEASURED.index(kind(part)))

    def _cell(self, net: str, prior: str, data: Dataset) -> list[Part]:
        cell = f"{net}/{prior}"

        def build(seed: int) -> torch.nn.Module:
            return build_network(net, data.input_shape, data.num_classes, seed=seed)

        workload = self.training.workload(build, data.x_train, data.y_train)
        case = Case(workload, prior, self.training)
        common = {
            **self.training.to_dict(),
            "strength": case.strength,
            "num_data": workload.num_data,
        }
        watch = Stopwatch(workload.device)
        cost, steps, test = self.cost, self.cost.steps, (data.x_test, data.y_test)
        if NETS[net].share_alone:
            settings = {**common, "steps": self.share_steps, "warmup": cost.warmup}
            measure = partial(measure_share, case, self.share_steps, cost.warmup, watch)
            return [Part(cell, "share", self.share_steps, measure, settings)]
        parts = [
            Part(
                cell,
                "cost",
                cost.work,
                partial(measure_cost, case, cost, watch),
                {**common, **vars(cost)},
            ),
            Part(
                cell,
                "quality",
                4 * steps,
                partial(measure_quality, case, steps, self.samples, test),
                {**common, "steps": steps, "samples": self.samples},
            ),
        ]
        for seed in range(self.seeds):
            settings = {**common, "steps": steps, "seed": seed}
            measure = partial(measure_accuracy, case.seeded(seed), steps, test)
            parts.append(Part(cell, f"accuracy/{seed}", 2 * steps, measure, settings))
        return parts


def accuracy_summary(results: Results, cell: str) -> dict[str, Any] | None:
    """Held against exact gradients over the seeds of a cell; `None` where there are none.

    Of seeds that were run with different settings, those of the last run count.
    """
    seeds = [part for name, part in results.cells[cell].items() if name.startswith("accuracy/")]
    if not seeds:
        return None
    last = max(seeds, key=lambda part: part["run"])["settings"]
    found = [p["result"] for p in seeds if {**p["settings"], "seed": last["seed"]} == last]
    return paired_difference([r["held"] for r in found], [r["exact"] for r in found])


def overhead_tables(results: Results) -> list[TextTable]:
    """The tables of the results that are there: costs, quality, shares, accuracies."""
    cells = list(results.cells)
    rows = {
        "cost": [_cost_row(cell, results.result(cell, "cost")) for cell in cells],
        "quality": [_quality_row(cell, results.result(cell, "quality")) for cell in cells],
        "energy": [_energy_row(cell, results.result(cell, "quality")) for cell in cells],
        "share": [_share_row(cell, results.result(cell, "share")) for cell in cells],
        "accuracy": [_accuracy_row(cell, accuracy_summary(results, cell)) for cell in cells],
    }
    return [
        TextTable(title, ("network", "prior", *columns), found)
        for part, title, columns in _TABLES
        if (found := [row for row in rows[part] if row is not None])
    ]


_TABLES = (
    (
        "cost",
        "Time of training",
        ("plain ms", "ours ms", "ratio (range)", "naive / ours", "refreshes"),
    ),
    (
        "quality",
        "Held against exact gradients (held, exact: test accuracy)",
        ("lowest cosine", "of all matrices", "lowest u'Wv/σ₁", "held", "exact"),
    ),
    (
        "energy",
        "Energy at the end: held (and disturbed) against exact gradients",
        ("start", "plain", "exact", "held", "off / drop", "off / effect"),
    ),
    (
        "share",
        "The prior's share of a step",
        ("step ms", "share", "share after the first step", "refreshes"),
    ),
    (
        "accuracy",
        "Test accuracy over seeds, held minus exact",
        ("mean difference", "95 % interval", "seeds"),
    ),
)


def _cost_row(cell: str, result: dict[str, Any] | None) -> list[str] | None:
    if result is None:
        return None
    naive = result["naive"]
    return [
        *cell.split("/"),
        f"{result['plain_ms']:.2f}",
        f"{result['prior_ms']:.2f}",
        spread(result["ratio"]),
        NOTHING if naive is None else f"{naive['ratio']:.1f}",
        counts(result["refreshes"]),
    ]


def _quality_row(cell: str, result: dict[str, Any] | None) -> list[str] | None:
    if result is None:
        return None
    cosine, top = result["cosine"], result["top"]
    single = [found["value"] for matrix, found in cosine.items() if matrix != WHOLE]
    return [
        *cell.split("/"),
        number(min(single, default=None), ".5f"),
        number(cosine.get(WHOLE, {}).get("value"), ".5f"),
        number(min((found["value"] for found in top.values()), default=None), ".5f"),
        f"{result['accuracy']['held']:.4f}",
        f"{result['accuracy']['exact']:.4f}",
    ]


def _energy_row(cell: str, result: dict[str, Any] | None) -> list[str] | None:
    if result is None:
        return None
    energy = result["energy"]

    def off(name: str) -> str:
        held, chance = (number(energy[name + end], ".2%") for end in ("", "_disturbed"))
        return f"{held} ({chance})"

    ends = [f"{energy[name]:.2f}" for name in ("start", "plain", "exact", "held")]
    return [*cell.split("/"), *ends, off("relative"), off("of_effect")]


def _share_row(cell: str, result: dict[str, Any] | None) -> list[str] | None:
    if result is None:
        return None
    return [
        *cell.split("/"),
        f"{1e3 * result['total_seconds'] / result['steps']:.1f}",
        f"{result['share']:.2%}",
        number(result["later_share"], ".2%"),
        counts(result["refreshes"]),
    ]


def _accuracy_row(cell: str, summary: dict[str, Any] | None) -> list[str] | None:
    if summary is None:
        return None
    interval = NOTHING
    if summary["low"] is not None:
        interval = f"{summary['low']:+.4f} to {summary['high']:+.4f}"
    return [*cell.split("/"), f"{summary['mean']:+.4f}", interval, str(summary["pairs"])]

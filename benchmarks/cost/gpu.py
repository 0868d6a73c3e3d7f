"""`python -m benchmarks gpu`: a large network in bfloat16 and large layers, on random data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from bayes_htr.experiments import build_network
from benchmarks.common.parts import Part
from benchmarks.common.results import Results
from benchmarks.common.stopwatch import Stopwatch
from benchmarks.common.tables import TextTable, counts, spread
from benchmarks.cost.layers import LayerSettings, measure_refresh
from benchmarks.cost.ratio import CostSettings, measure_cost
from benchmarks.cost.settings import Case, Training

_IMAGE, _CLASSES, _BATCHES = (3, 32, 32), 10, 8
LAYER_BATCH = 128
"""Examples per step of a single layer."""


@dataclass(frozen=True)
class Gpu:
    """The whole benchmark.

    Attributes:
        nets: Networks for 32x32 colour images.
        sizes: Rows and columns of single layers.
        priors: Keys of `naive.ENERGIES`.
        training: How networks are trained; layers with at most `LAYER_BATCH` examples per step.
        cost: How networks are timed.
        layer: How layers are timed.
    """

    nets: Sequence[str]
    sizes: Sequence[int]
    priors: Sequence[str]
    training: Training
    cost: CostSettings
    layer: LayerSettings

    def parts(self) -> list[Part]:
        """Networks, then layers."""
        watch = Stopwatch(torch.device(self.training.device))
        small = replace(self.training, batch_size=min(self.training.batch_size, LAYER_BATCH))
        networks = [
            Part(
                f"{net}/{prior}",
                "cost",
                self.cost.work,
                partial(measure_cost, self._case(net, prior), self.cost, watch),
                {**self.training.to_dict(), **vars(self.cost)},
            )
            for net in self.nets
            for prior in self.priors
        ]
        layers = [
            Part(
                f"{n}/{prior}",
                "layer",
                2 * self.layer.steps,
                partial(measure_refresh, n, prior, small, self.layer, watch),
                {**small.to_dict(), **vars(self.layer)},
            )
            for n in self.sizes
            for prior in self.priors
        ]
        return networks + layers

    def _case(self, net: str, prior: str) -> Case:
        generator = torch.Generator().manual_seed(self.training.seed)
        count = _BATCHES * self.training.batch_size
        x = torch.randn(count, *_IMAGE, generator=generator)
        y = torch.randint(_CLASSES, (count,), generator=generator)

        def build(seed: int) -> torch.nn.Module:
            return build_network(net, _IMAGE, _CLASSES, seed=seed)

        return Case(self.training.workload(build, x, y), prior, self.training)


def gpu_tables(results: Results) -> list[TextTable]:
    """The tables of the results that are there: networks and layers."""
    networks, layers = [], []
    for cell in results.cells:
        if (cost := results.result(cell, "cost")) is not None:
            networks.append(_network_row(cell, cost))
        if (layer := results.result(cell, "layer")) is not None:
            layers.append(_layer_row(cell, layer))
    per_step = ("plain ms", "ours ms", "ratio")
    tables = [
        TextTable("Networks", ("network", "prior", *per_step, "refreshes"), networks),
        TextTable(
            "Layers",
            ("n", "prior", *per_step, "refreshes", "first refresh ms", "eigh ms", "eigh / refresh"),
            layers,
        ),
    ]
    return [table for table in tables if table.rows]


def _network_row(cell: str, result: dict[str, Any]) -> list[str]:
    return [
        *cell.split("/"),
        f"{result['plain_ms']:.2f}",
        f"{result['prior_ms']:.2f}",
        spread(result["ratio"]),
        counts(result["refreshes"]),
    ]


def _layer_row(cell: str, result: dict[str, Any]) -> list[str]:
    return [
        *cell.split("/"),
        f"{result['plain_ms']:.2f}",
        f"{result['ours_ms']:.2f}",
        f"{result['ours_ms'] / result['plain_ms']:.3f}",
        str(result["refreshes"]),
        f"{result['refresh_ms']:.1f}",
        f"{result['eigh_ms']:.1f}",
        f"{result['eigh_ms'] / result['refresh_ms']:.1f}",
    ]

"""`python -m benchmarks growth`: time per step against the size of one matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.common.parts import Part
from benchmarks.common.results import Results
from benchmarks.common.stopwatch import Stopwatch
from benchmarks.common.tables import TextTable
from benchmarks.cost.layers import LayerSettings, measure_growth
from benchmarks.cost.settings import Training

LINES = {"plain_ms": "plain", "ours_ms": "ours", "naive_ms": "naive autograd"}
"""What is timed, by its name in a result."""


@dataclass(frozen=True)
class Growth:
    """The whole benchmark.

    Attributes:
        sizes: Rows and columns of the matrix.
        priors: Keys of `naive.ENERGIES`.
        training: How it is trained.
        layer: How long.
    """

    sizes: Sequence[int]
    priors: Sequence[str]
    training: Training
    layer: LayerSettings

    def parts(self) -> list[Part]:
        """A part for each size and prior, small matrices first."""
        watch = Stopwatch(torch.device(self.training.device))
        return [
            Part(
                f"{n}/{prior}",
                "growth",
                2 * self.layer.steps + self.layer.naive_steps,
                partial(measure_growth, n, prior, self.training, self.layer, watch),
                {**self.training.to_dict(), **vars(self.layer)},
            )
            for n in sorted(self.sizes)
            for prior in self.priors
        ]


def growth_points(results: Results) -> dict[str, dict[int, dict[str, float]]]:
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
            *(f"{r[name]:.3g}" for name in LINES),
            f"{r['ours_ms'] / r['plain_ms']:.3f}",
            f"{r['naive_ms'] / r['ours_ms']:.1f}",
            str(r["refreshes"]),
        ]
        for prior, sizes in growth_points(results).items()
        for size, r in sizes.items()
    ]
    columns = ("n", "prior", *(f"{line} ms" for line in LINES.values()))
    return [
        TextTable(
            "Time per step of an n x n layer",
            (*columns, "ratio to plain", "naive / ours", "refreshes"),
            rows,
        )
    ]

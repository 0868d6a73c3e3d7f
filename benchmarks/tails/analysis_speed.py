"""`python -m benchmarks analyze`: whole reports of a network against WeightWatcher's, in one run.

Needs the extra `peers`. Both see the same weights; convolutions as one matrix (the default here)
and by slices (as WeightWatcher sees them). `default` is what either does by default, on our side
with the Marchenko-Pastur bulk and likelihood ratios, on theirs without; `same` leaves these out on
our side too; `full` is our default and randomised entries, and on their side randomised entries and
the Marchenko-Pastur fit.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from bayes_htr.analysis import analyze
from bayes_htr.experiments import NETWORKS, build_network
from benchmarks.common.parts import Part
from benchmarks.common.results import Results
from benchmarks.common.stopwatch import Stopwatch, Tick
from benchmarks.common.tables import TextTable

_SHAPE, _CLASSES = (3, 32, 32), 10
_OURS: dict[str, dict[str, Any]] = {
    "default": {},
    "same": {"mp_fit": False, "compare": False},
    "full": {"randomize": True},
}
WORK = tuple(_OURS)
CONVS = ("flatten", "slices")
NETS = tuple(NETWORKS)


@dataclass(frozen=True)
class AnalysisSpeed:
    """The whole benchmark.

    Attributes:
        nets: Names of networks.
        work: Some of `WORK`.
        repeats: Timings, taken in turns, of which the median counts.
        seed: Of the weights.
    """

    nets: Sequence[str]
    work: Sequence[str]
    repeats: int
    seed: int

    def parts(self) -> list[Part]:
        """A part for each network, view of convolutions, and amount of work."""
        settings = {
            "repeats": self.repeats,
            "seed": self.seed,
            "blas_threads": os.environ.get("OMP_NUM_THREADS"),
        }
        return [
            Part(
                f"{net}/{conv}",
                work,
                2 * self.repeats,
                partial(self.measure, net, conv, work),
                settings,
            )
            for net in self.nets
            for conv in CONVS
            for work in self.work
        ]

    def measure(self, name: str, conv: Any, work: str, tick: Tick) -> dict[str, Any]:
        """Seconds of both, and how their largest eigenvalues and exponents differ."""
        theirs = _weightwatcher()
        net = build_network(name, _SHAPE, _CLASSES, seed=self.seed)
        watch = Stopwatch(torch.device("cpu"))
        full = work == "full"
        ours_seconds, their_seconds = [], []
        analyze({"w": torch.randn(50, 40, generator=torch.Generator().manual_seed(0))})
        for _ in range(self.repeats):
            ours_seconds.append(
                watch(lambda: analyze(net, conv=conv, progress=False, **_OURS[work]))
            )
            tick(1)
            their_seconds.append(watch(lambda: theirs(net, full)))
            tick(1)
        return {
            "ours": statistics.median(ours_seconds),
            "weightwatcher": statistics.median(their_seconds),
            **_differences(net, conv, theirs),
        }


def _weightwatcher() -> Callable[[nn.Module, bool], Any]:
    """WeightWatcher's `analyze`, silent.

    Raises:
        ImportError: It is not installed.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            from weightwatcher import WeightWatcher
    except ImportError as error:
        raise ImportError(
            'this benchmark needs WeightWatcher: pip install "bayes-htr[peers]"'
        ) from error

    def run(net: nn.Module, full: bool) -> Any:
        logger = logging.getLogger("weightwatcher")
        before = logger.level
        logger.setLevel(logging.CRITICAL)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                return WeightWatcher(model=net).analyze(randomize=full, mp_fit=full)
        finally:
            logger.setLevel(before)

    return run


def _differences(
    net: nn.Module, conv: Any, theirs: Callable[[nn.Module, bool], Any]
) -> dict[str, float | int]:
    """The largest relative difference of `alpha` and `lambda_max` where the matrices are the same.

    These are all of them by slices, and the linear layers flattened.
    """
    rows = analyze(net, conv=conv, progress=False).rows
    details = {f"{d['longname']}.weight": d for d in theirs(net, False).to_dict("records")}
    same = [
        abs(float(row[name]) / details[row["name"]][name] - 1)
        for row in rows
        for name in ("alpha", "lambda_max")
        if conv == "slices" or row["layer_type"] == "dense"
    ]
    return {"matrices": len(rows), "difference": float(max(same, default=0.0))}


def analysis_tables(results: Results) -> list[TextTable]:
    """Seconds of both and their ratio."""
    rows = []
    for cell in results.cells:
        net, conv = cell.split("/")
        for work in WORK:
            if r := results.result(cell, work):
                times = [f"{r[k]:.3g}" for k in ("weightwatcher", "ours")]
                ratio = f"{r['weightwatcher'] / r['ours']:.1f}"
                row = [net, conv, work, str(r["matrices"]), *times, ratio]
                rows.append([*row, f"{r['difference']:.1e}"])
    columns = (
        *("network", "convolutions", "work", "matrices", "WeightWatcher s", "ours s", "ratio"),
        "largest relative difference",
    )
    return [TextTable("Reports of a network", columns, rows)]

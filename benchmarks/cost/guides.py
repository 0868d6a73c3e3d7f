"""`python -m benchmarks guides`: time and memory of a step of SVI with each guide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from bayes_htr._torch import isolated_randomness
from benchmarks.common.parts import Part
from benchmarks.common.results import Results
from benchmarks.common.stopwatch import Stopwatch, Tick, summary, take_turns
from benchmarks.common.tables import NOTHING, TextTable, number, spread
from benchmarks.cost.guide_runs import PLAIN, TIMED, Work
from benchmarks.cost.memory import measure_memory

CELL = "mlp/guides"
PYRO = ("pyro_trace", "pyro_meanfield")


@dataclass(frozen=True)
class GuideSettings:
    """How long, and on what.

    Attributes:
        rounds: How often all runs have their turns; medians are over these.
        steps: Steps of each run in a round.
        warmup: Steps of each run before the clock runs; the first of them set a guide up.
        memory_steps: Steps of the processes whose memory is measured.
        examples: Random images that steps are taken on.
        batch_size: Examples per step.
        seed: Of the networks and the data.
    """

    rounds: int = 15
    steps: int = 20
    warmup: int = 50
    memory_steps: int = 30
    examples: int = 2048
    batch_size: int = 128
    seed: int = 0


@dataclass(frozen=True)
class GuideBenchmark:
    """The whole benchmark.

    Attributes:
        names: Keys of `TIMED`.
        settings: How long.
    """

    names: Sequence[str]
    settings: GuideSettings

    def parts(self) -> list[Part]:
        """One part for all times, which are of one run, and one for the memory of each."""
        s = self.settings
        names = list(dict.fromkeys([PLAIN, *self.names]))
        work = Work.random(s.examples, s.batch_size, s.seed)
        common = {"examples": s.examples, "batch_size": s.batch_size, "seed": s.seed}
        timing = {"rounds": s.rounds, "steps": s.steps, "warmup": s.warmup}
        parts = [
            Part(
                CELL,
                "time",
                s.rounds * s.steps * len(names),
                partial(measure_times, names, work, s),
                {**common, **timing, "names": names},
            )
        ]
        for name in names:

            def measure(tick: Tick, name: str = name) -> dict[str, float]:
                return measure_memory(name, work, s.memory_steps)

            settings = {**common, "steps": s.memory_steps}
            parts.append(Part(CELL, f"memory/{name}", 1, measure, settings))
        return parts


def measure_times(
    names: Sequence[str], work: Work, settings: GuideSettings, tick: Tick
) -> dict[str, Any]:
    """Milliseconds per step of runs that take turns.

    Args:
        names: Keys of `TIMED`, `PLAIN` among them.
        work: The data.
        settings: How long.
        tick: Told of the steps.

    Returns:
        By name: `ms` per step, and its ratios `to_plain`, and to each of Pyro's that was timed
        (`to_pyro_trace`, ...), of the same round each: median, least and largest over rounds.
    """
    watch = Stopwatch(torch.device("cpu"))
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with isolated_randomness():
        torch.manual_seed(settings.seed)
        runs = {name: TIMED[name].run(work) for name in names}
        for run in runs.values():
            run.steps(settings.warmup)
        for _ in range(settings.rounds):
            own = take_turns(
                list(runs.values()), settings.steps, max(1, settings.steps // 2), watch, tick
            )
            for name, value in zip(names, own, strict=True):
                seconds[name].append(value)
    others = {PLAIN: "to_plain"} | {p: f"to_{p}" for p in PYRO if p in names}
    return {
        name: {
            "ms": summary([1e3 * s / settings.steps for s in seconds[name]]),
            **{
                key: summary([a / b for a, b in zip(seconds[name], seconds[other], strict=True)])
                for other, key in others.items()
            },
        }
        for name in names
    }


def guide_tables(results: Results) -> list[TextTable]:
    """Times with their ratios, and memory with its ratio to MAP under the same prior."""
    times = results.result(CELL, "time") or {}
    rows = [
        [
            TIMED[name].label,
            spread(found["ms"], 2),
            spread(found["to_plain"], 2),
            *(spread(found.get(f"to_{p}"), 2) for p in PYRO),
        ]
        for name, found in times.items()
        if name in TIMED
    ]
    columns = ("ms per step (range)", "to plain", "to Pyro, Trace_ELBO", "TraceMeanField_ELBO")
    tables = [TextTable("Time of a step", ("step of", *columns), rows)]
    memory = [row for name in TIMED if (row := _memory(results, name)) is not None]
    figures = ("before, MB", "peak, MB", "own, MB", "peak / MAP's", "own / MAP's")
    tables.append(TextTable("Peak memory of a fresh process", ("steps of", *figures), memory))
    return [table for table in tables if table.rows]


def map_of(name: str) -> str | None:
    """The MAP run under the prior of a guide's run; plain training where there is none."""
    for prior in ("lomax", "frechet"):
        if prior in name:
            return f"map_{prior}"
    return None if name in PYRO else PLAIN


def _memory(results: Results, name: str) -> list[str] | None:
    found = results.result(CELL, f"memory/{name}")
    if found is None:
        return None
    base = map_of(name)
    other = None if base is None else results.result(CELL, f"memory/{base}")
    ratios = [NOTHING, NOTHING]
    if other is not None and base != name:
        ratios = [number(found[k] / other[k], ".2f") for k in ("peak_mb", "own_mb")]
    return [
        TIMED[name].label,
        *(f"{found[k]:.0f}" for k in ("before_mb", "peak_mb", "own_mb")),
        *ratios,
    ]

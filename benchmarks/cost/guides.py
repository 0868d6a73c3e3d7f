"""`python -m benchmarks guides`: time and memory of a step of SVI with each guide."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import bayes_htr as htr
from bayes_htr._plotting import (
    BLUE,
    GREY,
    INK,
    RED,
    WIDEST,
    new_panels,
    styled,
)
from benchmarks.common.pictures import grid, save
from benchmarks.common.results import Results
from benchmarks.common.running import Benchmark, Part, from_options, positive
from benchmarks.common.stopwatch import Stopwatch, Tick, summary, take_turns
from benchmarks.common.tables import NOTHING, TextTable, number, spread
from benchmarks.cost.guide_runs import PLAIN, TIMED, random_images
from benchmarks.cost.training import Workload

CELL = "mlp/guides"
_PYRO = ("pyro_trace", "pyro_meanfield")
_STATUS = Path("/proc/self/status")
_CLONE = Path(__file__).parents[2]


@dataclass(frozen=True)
class GuideSettings:
    """How long, and on what, steps are measured.

    Attributes:
        rounds: How often all runs have their turns; medians are over rounds.
        steps: Steps of each run in a round.
        warmup: Steps of each run before the clock runs; the first of them set a guide up.
        memory_steps: Steps of the processes whose memory is measured.
        examples: The number of random images.
        batch_size: Examples per step.
        seed: The seed of the networks and the data.
    """

    rounds: int = 15
    steps: int = 20
    warmup: int = 50
    memory_steps: int = 30
    examples: int = 2048
    batch_size: int = 128
    seed: int = 0


def _add_options(parser: argparse.ArgumentParser) -> None:
    default = GuideSettings()
    add = parser.add_argument
    add("--runs", nargs="+", choices=TIMED, default=list(TIMED), help="what is timed")
    add("--rounds", type=positive, default=default.rounds, help="turns that each run has")
    add("--steps", type=positive, default=default.steps, help="steps of a run in its turn")
    add("--warmup", type=positive, default=default.warmup, help="steps before the clock runs")
    add(
        "--memory-steps",
        type=positive,
        default=default.memory_steps,
        help="steps to measure memory",
    )
    add("--examples", type=positive, default=default.examples, help="random images")
    add("--batch-size", type=positive, default=default.batch_size, help="examples per step")
    add("--seed", type=int, default=default.seed, help="seed of networks and images")


def _parts(args: argparse.Namespace) -> list[Part]:
    """Return one part for all times, which are of one run, and one for the memory of each run."""
    s = from_options(GuideSettings, args)
    names = list(dict.fromkeys([PLAIN, *args.runs]))
    work = random_images(s.examples, s.batch_size, s.seed)
    common = {"examples": s.examples, "batch_size": s.batch_size, "seed": s.seed}
    timing = {"rounds": s.rounds, "steps": s.steps, "warmup": s.warmup}
    time = Part(
        CELL,
        "time",
        s.rounds * s.steps * len(names),
        partial(measure_times, names, work, s),
        {**common, **timing, "names": names},
    )
    memory = {**common, "steps": s.memory_steps}
    return [time] + [
        Part(CELL, f"memory/{name}", 1, partial(measure_memory, name, work, s.memory_steps), memory)
        for name in names
    ]


def measure_times(
    names: Sequence[str], work: Workload, settings: GuideSettings, tick: Tick
) -> dict[str, Any]:
    """Milliseconds per step of runs that take turns.

    Args:
        names: Keys of `TIMED`, `PLAIN` among them.
        work: The data.
        settings: How long to measure.
        tick: Called with numbers of steps.

    Returns:
        For each name: `ms` per step, and its ratios `to_plain` and to each run of Pyro that was
        timed (`to_pyro_trace`, ...) in the same round: median, least and largest over rounds.
    """
    watch = Stopwatch(torch.device("cpu"))
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with torch.random.fork_rng(devices=[]):
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
    others = {PLAIN: "to_plain"} | {p: f"to_{p}" for p in _PYRO if p in names}
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


# Memory: each run has a process of its own, so that nothing counts that another one has left.


def measure_memory(name: str, work: Workload, steps: int, tick: Tick) -> dict[str, float]:
    """Return the largest memory of a fresh process that takes some steps of a run (Linux).

    Args:
        name: A key of `TIMED`.
        work: The size and seed of the network; the data are drawn anew.
        steps: The number of steps.
        tick: Called when the process has ended.

    Returns:
        `before_mb`, resident once the libraries and the data are loaded; `peak_mb`, the high-water
        mark of the kernel; and `own_mb`, their difference: what the network, its training and one
        step take.

    Raises:
        ProcessError: The process failed; the message holds the end of its output.
    """
    training, threads = work.training, torch.get_num_threads()
    numbers = (work.num_data, training.batch_size, training.seed, steps, threads)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cost.guides", name, *map(str, numbers)],
        cwd=_CLONE,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise htr.ProcessError(f"{name}: no memory was measured: {done.stderr.strip()[-500:]}")
    tick(1)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _own_memory(
    name: str, examples: int, batch_size: int, seed: int, steps: int, threads: int
) -> dict[str, float]:
    """Return what `measure_memory` returns, of this process."""
    torch.set_num_threads(threads)
    work = random_images(examples, batch_size, seed)
    before = _status("VmRSS")
    TIMED[name].run(work).steps(steps)
    peak = _status("VmHWM")
    return {"before_mb": before, "peak_mb": peak, "own_mb": peak - before}


def _status(field: str) -> float:
    """Return a figure of the memory of this process in MB."""
    for line in _STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"{_STATUS} has no {field}")


# Tables and picture


def guide_tables(results: Results) -> list[TextTable]:
    """Times with their ratios, and memory with its ratio to MAP under the same prior."""
    times = results.result(CELL, "time") or {}
    rows = [
        [
            TIMED[name].label,
            spread(found["ms"], 2),
            spread(found["to_plain"], 2),
            *(spread(found.get(f"to_{p}"), 2) for p in _PYRO),
        ]
        for name, found in times.items()
        if name in TIMED
    ]
    columns = ("ms per step (range)", "to plain", "to Pyro, Trace_ELBO", "TraceMeanField_ELBO")
    tables = [TextTable("Time of a step", ("step of", *columns), rows)]
    memory = [row for name in TIMED if (row := _memory_row(results, name)) is not None]
    figures = ("before, MB", "peak, MB", "own, MB", "peak / MAP's", "own / MAP's")
    tables.append(TextTable("Peak memory of a fresh process", ("steps of", *figures), memory))
    return [table for table in tables if table.rows]


def map_of(name: str) -> str | None:
    """The run of MAP under the same prior as a run; without a spectral prior, plain training."""
    for prior in ("lomax", "frechet"):
        if prior in name:
            return f"map_{prior}"
    return None if name in _PYRO else PLAIN


def _memory_row(results: Results, name: str) -> list[str] | None:
    found = results.result(CELL, f"memory/{name}")
    if found is None:
        return None
    base = map_of(name)
    other = None if base is None else results.result(CELL, f"memory/{base}")
    ratios = [NOTHING, NOTHING]
    if other is not None and base != name:
        ratios = [number(found[k] / other[k], ".2f") for k in ("peak_mb", "own_mb")]
    figures = (f"{found[k]:.0f}" for k in ("before_mb", "peak_mb", "own_mb"))
    return [TIMED[name].label, *figures, *ratios]


@styled
def draw_guides(results: Results, args: argparse.Namespace) -> list[Path]:
    """Write `guides.png`: medians of the ratios to plain training, with their ranges over rounds.

    Raises:
        ImportError: matplotlib is not installed.
    """
    times = results.result(CELL, "time") or {}
    names = [name for name in TIMED if name in times and name != PLAIN][::-1]
    if not names:
        return []
    figure, (ax,) = new_panels(1, 1, WIDEST, 0.9 + 0.3 * len(names))
    for place, name in enumerate(names):
        ratio = times[name]["to_plain"]
        color = RED if name.startswith("pyro") else BLUE
        ax.barh(place, ratio["median"], height=0.6, color=color)
        ax.plot([ratio["min"], ratio["max"]], [place, place], color=INK, lw=1)
        ax.annotate(
            f"{ratio['median']:.1f}",
            (ratio["max"], place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    ax.set_yticks(range(len(names)), [TIMED[name].label for name in names])
    ax.axvline(1, color=GREY, lw=1)
    ax.set_xlabel("time of a step over that of plain training by SGD\n(line: range over rounds)")
    ax.margins(x=0.08)
    grid(ax, "x")
    return [save(figure, results.folder / "guides.png")]


GUIDES = Benchmark(
    "guides",
    "time and memory of a step of SVI with each guide, against plain training and Pyro",
    "What a guide costs",
    _add_options,
    _parts,
    guide_tables,
    draw_guides,
)


if __name__ == "__main__":
    named, *given = sys.argv[1:]
    print(json.dumps(_own_memory(named, *(int(n) for n in given))))

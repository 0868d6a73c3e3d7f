"""One square matrix: a linear model of `n` inputs and `n` classes, on random data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common.stopwatch import Stopwatch, Tick, no_collection, take_turns
from benchmarks.cost.settings import Case, PriorRun, Training
from benchmarks.cost.training import Run


@dataclass(frozen=True)
class LayerSettings:
    """How long.

    Attributes:
        steps: Steps with and without the prior, refreshes included.
        turn: Steps that either takes before the other has its turn.
        warmup: Steps of runs that are thrown away first.
        naive_steps: At most so many steps with naive autograd.
        naive_seconds: No step with naive autograd begins after so long.
        repeats: How often a single refresh or decomposition is timed.
    """

    steps: int = 200
    turn: int = 20
    warmup: int = 3
    naive_steps: int = 5
    naive_seconds: float = 120.0
    repeats: int = 3


def layer_case(n: int, prior: str, training: Training) -> Case:
    """An `n x n` layer under a prior, with eight batches of random data."""

    def build(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return nn.Sequential(nn.Linear(n, n, bias=False))

    generator = torch.Generator().manual_seed(training.seed)
    count = 8 * training.batch_size
    x = torch.randn(count, n, generator=generator)
    y = torch.randint(n, (count,), generator=generator)
    return Case(training.workload(build, x, y), prior, training)


def measure_growth(
    n: int, prior: str, training: Training, settings: LayerSettings, watch: Stopwatch, tick: Tick
) -> dict[str, Any]:
    """Milliseconds per step, plain, with the prior, and with naive autograd.

    Returns:
        `plain_ms`, `ours_ms` (over all steps, refreshes included), `naive_ms`, `naive_steps`,
        `refreshes`.
    """
    case = layer_case(n, prior, training)
    per_step = _per_step(case, settings, watch, tick)
    layer_case(64, prior, training).naive_run().steps(1)  # warms up what a small matrix can
    naive = case.naive_run()
    seconds: list[float] = []
    with no_collection():
        while len(seconds) < settings.naive_steps and sum(seconds) < settings.naive_seconds:
            seconds.append(watch(partial(naive.steps, 1)))
            tick(1)
    return {
        **per_step,
        "naive_ms": 1e3 * sum(seconds) / len(seconds),
        "naive_steps": len(seconds),
    }


def measure_refresh(
    n: int, prior: str, training: Training, settings: LayerSettings, watch: Stopwatch, tick: Tick
) -> dict[str, Any]:
    """Milliseconds per step, plain and with the prior, and of a first refresh against `eigh`.

    Returns:
        `plain_ms`, `ours_ms` (over all steps), `refreshes`, `refresh_ms` (medians: the first call
        of a fresh energy) and `eigh_ms` (`eigh` of the Gram matrix).
    """
    case = layer_case(n, prior, training)
    per_step = _per_step(case, settings, watch, tick)
    net = case.workload.network()
    (weight,) = net.parameters()
    weight.grad = torch.zeros_like(weight)
    W = weight.detach()
    return {
        **per_step,
        "refresh_ms": _repeated(lambda: case.with_prior(net).alone, settings.repeats, watch),
        "eigh_ms": _repeated(lambda: partial(_eigh, W), settings.repeats, watch),
    }


def _per_step(case: Case, settings: LayerSettings, watch: Stopwatch, tick: Tick) -> dict[str, Any]:
    def runs() -> tuple[Run, PriorRun]:
        return case.plain_run(), case.prior_run()

    for run in runs():
        run.steps(settings.warmup)
    plain, ours = runs()
    seconds = take_turns((plain, ours), settings.steps, settings.turn, watch, tick)
    plain_ms, ours_ms = (1e3 * s / settings.steps for s in seconds)
    return {
        "plain_ms": plain_ms,
        "ours_ms": ours_ms,
        "refreshes": sum(ours.prior.energy.refreshes.values()),
    }


def _repeated(prepare: Callable[[], Callable[[], object]], repeats: int, watch: Stopwatch) -> float:
    """The median of some timings in milliseconds, each freshly prepared, after one that is not."""
    prepare()()
    with no_collection():
        return 1e3 * median(watch(prepare()) for _ in range(repeats))


def _eigh(W: Tensor) -> None:
    torch.linalg.eigh(W.T @ W)

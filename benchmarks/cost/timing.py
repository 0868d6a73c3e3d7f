"""What a prior costs: the time of training with it compared with plain training and autograd."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from benchmarks.common.running import count, positive
from benchmarks.common.stopwatch import Stopwatch, Tick, no_collection, summary, take_turns
from benchmarks.cost.training import Case


@dataclass(frozen=True)
class CostSettings:
    """How long and how often a case is timed.

    Attributes:
        steps: Steps of each run, refreshes included.
        pairs: Pairs of runs, one plain and one with the prior.
        turn: Steps that a run of a pair takes before it is the turn of the other.
        warmup: Steps of runs that are thrown away first.
        naive_steps: Steps with naive autograd, in turns with ours; 0 leaves them out.
    """

    steps: int = 1500
    pairs: int = 5
    turn: int = 50
    warmup: int = 5
    naive_steps: int = 20

    @property
    def work(self) -> int:
        """All steps together, for a progress bar."""
        return 2 * (self.steps * self.pairs + self.naive_steps)


def add_cost(parser: argparse.ArgumentParser, cost: CostSettings) -> None:
    """Add the options of `CostSettings`, with these defaults."""
    add = parser.add_argument
    add("--steps", type=positive, default=cost.steps, help="steps of a run")
    add("--pairs", type=positive, default=cost.pairs, help="pairs of runs, plain and with prior")
    add("--turn", type=positive, default=cost.turn, help="steps of a run until the other's turn")
    add("--naive-steps", type=count, default=cost.naive_steps, help="steps with naive autograd")


def measure_cost(
    case: Case, settings: CostSettings, watch: Stopwatch, tick: Tick
) -> dict[str, Any]:
    """Return the time of training with the prior and without.

    The pairs start from fresh networks with the same seed, so that the time contains the first
    refresh. The steps with naive autograd follow `warmup` steps of both runs.

    Returns:
        `plain_seconds` and `prior_seconds` by pair; `ratio`, the median, least and largest ratio of
        a pair; `plain_ms` and `prior_ms` per step, medians; `refreshes` by matrix; and `naive`
        (`naive_ms` and `ours_ms` per step, and their `ratio`) or `None`.
    """
    for run in (case.plain_run(), case.prior_run()):
        run.steps(settings.warmup)
    plain_seconds, prior_seconds = [], []
    refreshes: dict[str, int] = {}
    for _ in range(settings.pairs):
        plain_run, prior_run = case.plain_run(), case.prior_run()
        seconds = take_turns((plain_run, prior_run), settings.steps, settings.turn, watch, tick)
        plain_seconds.append(seconds[0])
        prior_seconds.append(seconds[1])
        refreshes = prior_run.prior.energy.refreshes
    per_step = 1e3 / settings.steps
    return {
        "plain_seconds": plain_seconds,
        "prior_seconds": prior_seconds,
        "ratio": summary([b / a for a, b in zip(plain_seconds, prior_seconds, strict=True)]),
        "plain_ms": summary(plain_seconds)["median"] * per_step,
        "prior_ms": summary(prior_seconds)["median"] * per_step,
        "refreshes": refreshes,
        "naive": _against_naive(case, settings, watch, tick) if settings.naive_steps else None,
    }


def _against_naive(
    case: Case, settings: CostSettings, watch: Stopwatch, tick: Tick
) -> dict[str, float]:
    ours, naive = case.prior_run(), case.naive_run()
    for run in (ours, naive):
        run.steps(settings.warmup)
    seconds = take_turns((ours, naive), settings.naive_steps, 1, watch, tick)
    ours_ms, naive_ms = (1e3 * s / settings.naive_steps for s in seconds)
    return {"naive_ms": naive_ms, "ours_ms": ours_ms, "ratio": naive_ms / ours_ms}


def measure_share(
    case: Case, steps: int, warmup: int, watch: Stopwatch, tick: Tick
) -> dict[str, Any]:
    """The share of the prior in a step, for networks that are too slow to be trained in pairs.

    Args:
        case: The network and the prior.
        steps: Steps that are timed; the first of them contains the first refresh.
        warmup: Steps of a run that is thrown away first.
        watch: The stopwatch.
        tick: Called after every step.

    Returns:
        `steps`; `total_seconds`; `prior_seconds`, inside the calls of the energy; `share`, their
        ratio; `first_call_seconds`, the first refresh of all matrices; `later_share`, without the
        first step; and `refreshes` by matrix.
    """
    case.prior_run().steps(warmup)
    run = case.prior_run()
    inside: list[float] = []

    def timed(loss: Tensor) -> None:
        loss.backward()
        inside.append(watch(run.prior.alone))

    run.backward = timed
    total: list[float] = []
    with no_collection():
        for _ in range(steps):
            total.append(watch(lambda: run.steps(1)))
            tick(1)
    return {
        "steps": steps,
        "total_seconds": sum(total),
        "prior_seconds": sum(inside),
        "share": sum(inside) / sum(total),
        "first_call_seconds": inside[0],
        "later_share": sum(inside[1:]) / sum(total[1:]) if steps > 1 else None,
        "refreshes": run.prior.energy.refreshes,
    }

"""What a prior costs: the time of training with it over plain training, and over naive autograd."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.common.stopwatch import Stopwatch, Tick, summary, take_turns
from benchmarks.cost.settings import Case


@dataclass(frozen=True)
class CostSettings:
    """How long and how often.

    Attributes:
        steps: Steps of each run, refreshes included.
        pairs: Pairs of runs, one plain and one with the prior.
        turn: Steps that a run of a pair takes before the other has its turn.
        warmup: Steps of runs that are thrown away first.
        naive_steps: Steps with naive autograd, one by one in turns with ours; 0 leaves it out.
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


def measure_cost(
    case: Case, settings: CostSettings, watch: Stopwatch, tick: Tick
) -> dict[str, Any]:
    """Times of a case.

    The pairs start from fresh, identically seeded networks, so that the first refresh is in the
    time. The steps with naive autograd follow `warmup` steps of both runs.

    Returns:
        `plain_seconds` and `prior_seconds` by pair, `ratio` (median, min, max of the pairs' own
        ratios), `plain_ms` and `prior_ms` per step (medians), `refreshes` by matrix, and `naive`
        (`naive_ms`, `ours_ms` per step, `ratio`) or `None`.
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
        "naive": against_naive(case, settings, watch, tick) if settings.naive_steps else None,
    }


def against_naive(
    case: Case, settings: CostSettings, watch: Stopwatch, tick: Tick
) -> dict[str, float]:
    """Milliseconds per step with naive autograd and with ours, and their ratio."""
    ours, naive = case.prior_run(), case.naive_run()
    for run in (ours, naive):
        run.steps(settings.warmup)
    seconds = take_turns((ours, naive), settings.naive_steps, 1, watch, tick)
    ours_ms, naive_ms = (1e3 * s / settings.naive_steps for s in seconds)
    return {"naive_ms": naive_ms, "ours_ms": ours_ms, "ratio": naive_ms / ours_ms}

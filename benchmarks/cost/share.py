"""The prior's share of a step, for networks too slow to be trained in pairs."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from benchmarks.common.stopwatch import Stopwatch, Tick, no_collection
from benchmarks.cost.settings import Case


def measure_share(
    case: Case, steps: int, warmup: int, watch: Stopwatch, tick: Tick
) -> dict[str, Any]:
    """Time inside the energy's calls over the time of all.

    Args:
        case: The network and the prior.
        steps: Steps that are timed; the first of them holds the first refresh.
        warmup: Steps of a run that is thrown away first.
        watch: The stopwatch.
        tick: Told of every step.

    Returns:
        `steps`, `total_seconds`, `prior_seconds`, `share`, `first_call_seconds` (the first refresh
        of all matrices), `later_share` (without the first step), `refreshes` by matrix.
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

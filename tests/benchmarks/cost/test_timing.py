"""Costs and shares, on a clock that goes on when told to."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.common.stopwatch import Stopwatch
from benchmarks.cost.timing import CostSettings, measure_cost, measure_share

CPU = torch.device("cpu")


def test_ratios_are_of_pairs(clock, fake_run):
    plain, ours = iter([9.0, 0.1, 0.2, 0.4]), iter([9.0, 0.11, 0.26, 0.8, 0.1])  # first: warm-up

    def prior_run():
        run = fake_run(next(ours))
        run.prior = SimpleNamespace(energy=SimpleNamespace(refreshes={"w": 3}))
        return run

    case = SimpleNamespace(
        plain_run=lambda: fake_run(next(plain)),
        prior_run=prior_run,
        naive_run=lambda: fake_run(2.0),
    )
    told = []
    settings = CostSettings(steps=10, pairs=3, turn=4, warmup=2, naive_steps=5)
    found = measure_cost(case, settings, Stopwatch(CPU, clock), told.append)
    assert found["plain_seconds"] == pytest.approx([1.0, 2.0, 4.0])
    assert found["prior_seconds"] == pytest.approx([1.1, 2.6, 8.0])
    assert found["ratio"] == pytest.approx({"median": 1.3, "min": 1.1, "max": 2.0})
    assert (found["plain_ms"], found["prior_ms"]) == pytest.approx((200, 260))
    assert found["naive"] == pytest.approx({"naive_ms": 2000, "ours_ms": 100, "ratio": 20})
    assert found["refreshes"] == {"w": 3}
    assert sum(told) == settings.work


@pytest.mark.parametrize("entry", ["backward", "loss"])
def test_share_is_time_inside_over_all(case, entry, ticking):
    # A step reads the clock at both ends, and so does the prior within it: 1 of 3 seconds.
    found = measure_share(case(entry=entry), 4, 1, ticking, lambda count: None)
    assert found["share"] == found["later_share"] == pytest.approx(1 / 3)
    assert (found["total_seconds"], found["prior_seconds"]) == (12.0, 4.0)
    assert found["first_call_seconds"] == 1.0
    assert set(found["refreshes"]) == {"0.weight", "2.weight"}

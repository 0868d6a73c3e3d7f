"""The arithmetic of timings, on a clock that goes on when told to."""

import gc
from types import SimpleNamespace

import pytest
import torch

from benchmarks.common.stopwatch import Stopwatch, no_collection, summary, take_turns
from benchmarks.cost.layers import LayerSettings, measure_growth, measure_refresh
from benchmarks.cost.ratio import CostSettings, measure_cost
from benchmarks.cost.settings import Training
from benchmarks.cost.share import measure_share

CPU = torch.device("cpu")


def ticking():
    """A stopwatch whose clock goes on by one second whenever it is read."""
    times = iter(range(10**6))
    return Stopwatch(CPU, lambda: float(next(times)))


def test_runs_take_turns_in_alternating_order(clock, fake_run):
    log, told = [], []
    runs = (fake_run(0.1, "a", log), fake_run(0.3, "b", log))
    seconds = take_turns(runs, 5, 2, Stopwatch(CPU, clock), told.append)
    assert seconds == pytest.approx([0.5, 1.5])
    assert log == [("a", 2), ("b", 2), ("b", 2), ("a", 2), ("a", 1), ("b", 1)]
    assert told == [4, 4, 2]


def test_no_garbage_is_collected_while_timing():
    assert gc.isenabled()
    with no_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    with no_collection():
        pass
    assert not gc.isenabled()
    gc.enable()


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


def test_median_and_range():
    assert summary([3.0, 1.0, 2.0, 10.0]) == {"median": 2.5, "min": 1.0, "max": 10.0}


@pytest.mark.parametrize("entry", ["backward", "loss"])
def test_share_is_time_inside_over_all(case, entry):
    # A step reads the clock at both ends, and so does the prior within it: 1 of 3 seconds.
    found = measure_share(case(entry=entry), 4, 1, ticking(), lambda count: None)
    assert found["share"] == found["later_share"] == pytest.approx(1 / 3)
    assert (found["total_seconds"], found["prior_seconds"]) == (12.0, 4.0)
    assert found["first_call_seconds"] == 1.0
    assert set(found["refreshes"]) == {"0.weight", "2.weight"}


def test_growth_stops_naive_steps_after_a_time():
    settings = LayerSettings(steps=4, turn=2, warmup=1, naive_steps=5, naive_seconds=1.5)
    training = Training(batch_size=8)
    found = measure_growth(12, "lomax", training, settings, ticking(), lambda count: None)
    assert (found["plain_ms"], found["ours_ms"]) == (500, 500)  # two turns of a second
    assert (found["naive_ms"], found["naive_steps"]) == (1000, 2)
    assert found["refreshes"] >= 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_refresh_and_eigh_are_timed_alone(dtype):
    settings = LayerSettings(steps=2, warmup=1)
    training = Training(batch_size=8, dtype=dtype)
    found = measure_refresh(12, "frechet", training, settings, ticking(), lambda count: None)
    assert (found["refresh_ms"], found["eigh_ms"]) == (1000, 1000)

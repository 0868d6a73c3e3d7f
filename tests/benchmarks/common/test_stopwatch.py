"""The arithmetic of timings, on a clock that goes on when told to."""

import gc

import pytest
import torch

from benchmarks.common.stopwatch import Stopwatch, no_collection, summary, take_turns

CPU = torch.device("cpu")


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


def test_median_and_range():
    assert summary([3.0, 1.0, 2.0, 10.0]) == {"median": 2.5, "min": 1.0, "max": 10.0}

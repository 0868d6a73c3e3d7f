"""Processes that train together spread the spectral work, and hold the same numbers after it."""

from __future__ import annotations

import pytest

from bayes_htr.distributed import assign
from bayes_htr.engine import Drift
from tests.engine import sharing_cases as cases
from tests.inference.distributed_cases import result
from tests.processes import difference, found_by

pytestmark = pytest.mark.long


def loads(costs, processes):
    found = [0.0] * processes
    for cost, owner in zip(costs, assign(costs, processes), strict=True):
        found[owner] += cost
    return found


@pytest.mark.parametrize(
    ("costs", "processes", "owners"),
    [
        ([], 2, []),
        ([5.0], 2, [0]),
        ([3.0, 3.0, 3.0, 3.0, 3.0], 2, [0, 1, 0, 1, 0]),
        ([1.0, 9.0, 2.0, 4.0], 2, [1, 0, 1, 1]),
        ([1.0, 1.0], 3, [0, 1]),
        ([2.0, 7.0, 1.0], 1, [0, 0, 0]),
    ],
)
def test_the_largest_first_to_the_one_with_least_to_do(costs, processes, owners):
    assert assign(costs, processes) == owners


def test_no_process_has_more_than_a_fair_part_and_one_task():
    costs = [float((7 * i) % 31 + 1) for i in range(40)]
    for processes in (2, 3, 8):
        fair = sum(costs) / processes
        assert max(loads(costs, processes)) <= fair + max(costs)
        assert max(loads([4.0] * 41, processes)) - min(loads([4.0] * 41, processes)) <= 4.0


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each case found, by name and rank, and the folder of the runs."""
    out = tmp_path_factory.mktemp("sharing")
    cases.half(out / "one to two")
    read = found_by(cases.__file__, out)
    read.out = out
    return read


@pytest.mark.parametrize("name", cases.SAME)
def test_two_processes_compute_what_one_does(found, name):
    first, second = found(name)
    one = result(cases.SAME[name])
    assert difference(first["net"], second["net"]) == 0.0
    assert difference(first["net"], one["net"]) < 1e-5
    if name.startswith("fit"):
        assert first["hyperparameters"] == pytest.approx(one["hyperparameters"])
    else:
        assert first["refreshes"] == second["refreshes"] == one["refreshes"]


@pytest.mark.parametrize("name", ["exact", "every"])
def test_of_equal_layers_each_process_decomposes_half(found, name):
    parts = [state["decompositions"] for state in found(name)]
    total = sum(found(name)[0]["refreshes"].values())
    assert sum(parts) == total == cases.LAYERS * (6 if name == "exact" else 3)
    assert parts[0] == parts[1]


@pytest.mark.parametrize("name", ["drift", "drift late"])
def test_drifting_matrices_are_refreshed_at_checks(found, name):
    parts = [state["decompositions"] for state in found(name)]
    refreshes = {n: count for n, count in found(name)[0]["refreshes"].items() if "weight" in n}
    assert min(parts) > 0
    assert sum(parts) == sum(refreshes.values())
    # It has always moved by more than the tolerance. What is seen late of the matrix before a
    # refresh does not refresh it again.
    assert refreshes["3.weight"] == 1 + (6 if name == "drift" else 3)


def test_nothing_is_exchanged_unless_something_is_looked_at_or_refreshed(found):
    """Calls 4 and 8 agree on one vector of flags; the first tells, and each process sends once."""
    for state in found("communication"):
        first, *others = state["counts"]
        assert first == [0, 2, 2]  # whether the weights are the same, and what is sent
        assert others == [[1, 0, 0] if call in (4, 8) else [0, 0, 0] for call in range(2, 9)]


def test_an_error_in_one_matrix_is_raised_in_all(found):
    first, second = found("bad matrix")
    assert first == second
    assert first["error"] == "SpectrumError"
    assert "1.weight holds 1 entries that are not finite" in first["message"]


def test_an_error_that_says_nothing_of_a_matrix_is_repeated(found):
    first, second = found("out of memory")
    assert (second["error"], second["message"]) == ("MemoryError", "no room")
    assert first["error"] == "ProcessError"
    assert first["message"] == "process 1 of 2 failed: MemoryError: no room"
    assert found("in step")[0]["decompositions"] == cases.LAYERS / 2


def test_other_weights_raise_unless_nothing_is_shared(found):
    first, second = found("other weights")
    assert first == second
    assert first["error"] == "ValueError"
    assert "process 1 and process 0 in 3.weight, entries: [" in first["message"]
    assert [state["decompositions"] for state in found("not shared")] == [cases.LAYERS] * 2


def test_weights_that_are_spread_over_processes_are_refused(found):
    for state in found("sharded"):
        assert "share=False: each process computes for itself" in state["alone"]
        assert len(state["messages"]) == 12
        for message in state["messages"]:
            assert "DTensor with the placements" in message or "FullyShardedData" in message
            assert "this process has a part of the weights" in message
            assert "DistributedDataParallel" in message


def test_resumed_with_as_many_or_another_number_of_processes(found):
    for state in found("resumed"):
        assert difference(state["net"], state["whole"]) == 0.0
    whole = found("resumed")[0]["whole"]
    in_one = {"epochs": 4, "out": found.out / "two to one", "resume": True}
    one = result(lambda: cases.fit(Drift(1e-2), **in_one))
    assert difference(one["net"], whole) < 1e-5
    assert difference(found("one to two")[0]["net"], whole) < 1e-5

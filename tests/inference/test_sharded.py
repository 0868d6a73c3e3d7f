"""Two processes that shard the weights train as one process does."""

from __future__ import annotations

import pytest
import torch

import bayes_htr as htr
from tests.inference import sharded_cases as cases
from tests.inference.distributed_cases import result
from tests.processes import difference, found_by

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("sharded")
    read = found_by(cases.__file__, out, timeout=400)
    read.out = out
    return read


def metrics(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


@pytest.mark.parametrize("name", cases.SAME)
def test_divided_weights_are_those_of_one_process(found, name):
    first, second = found(name)
    one = result(lambda: cases.SAME[name](shard=False))
    assert difference(first["net"], second["net"]) == 0.0
    assert difference(first["net"], one["net"]) < 2e-5
    assert first["hyperparameters"] == pytest.approx(one["hyperparameters"])
    expected = [pytest.approx(row, rel=1e-4) for row in metrics(one["history"])]
    assert metrics(first["history"]) == expected
    assert metrics(second["history"]) == expected


def test_a_resumed_run_is_the_same_and_its_files_hold_whole_weights(found):
    for state in found("resumed"):
        assert difference(state["net"], state["whole"]) == 0.0
    loaded = htr.load(found.out / "saved", cases.network())
    assert difference(loaded.network().state_dict(), found("saved")[0]["net"]) == 0.0
    state = torch.load(found.out / "saved" / "checkpoint.pt", weights_only=True)
    assert difference(state["net"], found("saved")[0]["net"]) == 0.0


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("diverges", "DivergenceError", "training diverged"),
        ("step callback", "ValueError", "no process has them"),
        ("half", "ValueError", "take amp='bfloat16'"),
        ("lbfgs", "ValueError", "LBFGS needs a closure"),
        ("members", "ValueError", "without members"),
    ],
)
def test_errors_are_those_of_all_processes(found, name, error, message):
    for each in found(name):
        assert each["error"] in (error, "ProcessError")
        assert message in each["message"]


def test_an_error_of_the_data_ends_both(found):
    first, second = found("data raise")
    assert second["error"] == "OSError"
    assert first["error"] == "ProcessError"
    assert "example 20 is rotten" in first["message"]
    assert difference(found("still in step")[0]["net"], found("flat")[0]["net"]) == 0.0


@pytest.mark.parametrize("method", [htr.MAP(), htr.SVI(), htr.NUTS()])
def test_one_process_has_nothing_to_divide(method):
    model = htr.BayesianClassifier(cases.network(), htr.Priors({}))
    with pytest.raises(ValueError, match=r"there is one|is for htr\.MAP"):
        htr.fit(model, cases.data(), method=method, epochs=0, shard=True)

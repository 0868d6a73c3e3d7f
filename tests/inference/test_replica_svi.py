"""SVI in two processes, and mixtures whose members two processes share out."""

from __future__ import annotations

import pytest
import torch

import bayes_htr as htr
from bayes_htr.distributed import AsideStream
from tests.inference import distributed_svi_cases as cases
from tests.inference.distributed_cases import result
from tests.processes import difference, found_by

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("svi")
    cases.fit(noise="example", epochs=4, out=out / "one to two", callbacks=[lambda e: e.epoch == 2])
    read = found_by(cases.__file__, out, timeout=500)
    read.out = out
    return read


def metrics(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


@pytest.mark.parametrize("name", cases.SAME)
def test_two_processes_find_the_posterior_that_one_finds(found, name):
    first, second = found(name)
    one = result(lambda: cases.with_state(cases.SAME[name]))
    for part in ("net", "guide"):
        assert difference(first[part], second[part]) == 0.0
        assert difference(first[part], one[part]) < 2e-4
    assert first["hyperparameters"] == pytest.approx(one["hyperparameters"], rel=1e-4)
    expected = [pytest.approx(row, rel=1e-3) for row in metrics(one["history"])]
    assert metrics(first["history"]) == expected
    assert metrics(second["history"]) == expected


def test_dropout_differs_and_guides_do_not(found):
    first, second = found("random streams")
    (alike, *own), (alike_too, *other) = first["drawn"], second["drawn"]
    assert alike == alike_too  # when the network was checked, before training
    assert not set(own) & set(other)
    assert len(set(first["drawn"])) == len(first["drawn"])  # epochs differ, too
    assert difference(first["guide"], second["guide"]) == 0.0


@pytest.mark.parametrize("name", ["batchnorm", "still in step"])
def test_all_processes_return_the_same_posterior(found, name):
    first, second = found(name)
    for part in ("net", "guide"):
        assert difference(first[part], second[part]) == 0.0
    if name != "batchnorm":
        assert difference(first["guide"], found("shared")[0]["guide"]) == 0.0


def test_resumed_with_as_many_processes_it_is_the_same_run(found):
    for state in found("resumed"):
        assert difference(state["net"], state["whole"]) == 0.0


def test_resumed_with_another_number_of_processes(found):
    whole = result(lambda: cases.with_state(lambda: cases.fit(noise="example", epochs=4)))
    for state in found("one to two"):
        assert difference(state["net"], whole["net"]) < 2e-4
        assert difference(state["guide"], whole["guide"]) < 2e-4


def test_members_are_shared_out(found):
    first, second = found("mixture")
    assert difference(first["members"], second["members"]) == 0.0
    assert first["equal"]
    assert second["equal"]
    one = cases.fit(members=3, noise="example")
    expected = {}
    for number, member in enumerate(one.members):
        expected |= {f"{number} {n}": v for n, v in cases.state_of(member).items()}
    assert difference(first["members"], expected) == 0.0
    assert first["loss"] == one.history[-1]["loss"]
    loaded = htr.load(found.out / "mixture", cases.network())
    assert torch.equal(loaded.predict(cases.data()[0]).log_probs, predicted(one))
    modes = cases.fit(method=htr.MAP(), members=2)
    for each in found("modes"):
        assert torch.equal(each["labels"], predicted(modes))


def predicted(mixture):
    return mixture.predict(cases.data()[0]).log_probs


@pytest.mark.parametrize(
    ("name", "guilty", "error", "message"),
    [
        ("network raises", 1, "ValueError", "the third step is too much"),
        ("data raise", 1, "OSError", "example 20 is rotten"),
        ("member raises", 1, "ValueError", "no member here"),
        ("callback raises", 0, "KeyError", "no such logger"),
    ],
)
def test_an_error_in_one_process_ends_both(found, name, guilty, error, message):
    own, others = found(name)[guilty], found(name)[1 - guilty]
    assert own["error"] == error
    assert message in own["message"]
    assert others["error"] == "ProcessError"
    assert message in others["message"]


def test_more_processes_than_members_are_refused(found):
    for each in found("too few members"):
        assert each["error"] == "ValueError"
        assert "start at most as many processes as members" in each["message"]


def test_a_stream_is_kept_aside():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(2)
    aside = torch.rand(3)
    torch.manual_seed(1)
    stream = AsideStream(torch.device("cpu"))
    stream.seed(2)
    drawn, other = [torch.rand(1)], []
    with stream.swapped():
        other.append(torch.rand(1))
        with stream.swapped():
            drawn.append(torch.rand(1))
        other.append(torch.rand(1))
    drawn.append(torch.rand(1))
    with stream.swapped():
        other.append(torch.rand(1))
    assert torch.equal(torch.cat(drawn), expected)
    assert torch.equal(torch.cat(other), aside)

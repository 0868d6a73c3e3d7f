"""Energies of sharded networks are those of one process."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

import bayes_htr as htr
from bayes_htr.spectra import matrices_of
from bayes_htr.spectra.matrices import arrangement_of, weights_of
from bayes_htr.spectra.shards import LocalPart, factor_of, gram_of, times
from tests.engine import sharded_cases as cases
from tests.processes import ENVIRONMENT

pytestmark = pytest.mark.long

QUICK = {
    2: ["log det drift", "leading drift", "both every", "fit summed", "saved", "killed"],
    4: [
        "both exact",
        "float32",
        "fit",
        "two both-exact",
        "blocks leading-drift",
        "refused",
        "analyzed",
    ],
}
QUICK[4] += ["refused", "analyzed"]
SPECIAL = ("saved", "refused", "killed", "analyzed")
SLOW = [(processes, name) for processes in (2, 4) for name in cases.CASES]
SLOW += [(4, name) for name in cases.OTHERS if name not in SPECIAL]


def run(processes, names, folder):
    """What each process found, by name of the case and rank."""
    command = [sys.executable, cases.__file__, str(folder), str(processes), *names]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-3000:]
    states: dict = {name: [] for name in names}
    for name in names:
        for rank in range(processes):
            path = folder / f"{name}-{rank}.pt"
            states[name].append(torch.load(path, weights_only=True) if path.exists() else None)
    return states


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the quick cases found, by number of processes and name."""
    folder = tmp_path_factory.mktemp("sharded")
    states: dict = {"folder": folder}
    for processes, names in QUICK.items():
        states[processes] = run(processes, names, folder)
    return states


def distance(a, b):
    """The largest relative distance of two dictionaries of tensors."""
    assert a.keys() == b.keys()
    return max(
        float((a[n] - b[n]).detach().double().norm() / b[n].detach().double().norm().clamp(1e-30))
        for n in a
    )


def alone(name):
    """What one process computes in a case."""
    if name in cases.CASES:
        return cases.CASES[name]()
    return cases.trained(*name.partition(" ")[2].split("-"))


def check_same(name, states, tol):
    one = alone(name)
    for state in states:
        assert "error" not in state, state
        assert distance(state["net"], one["net"]) < 100 * tol
        assert state["refreshes"] == one["refreshes"]
        if "first" in state:
            assert distance(state["first"], one["first"]) < tol
            assert state["values"] == states[0]["values"]
            assert state["values"] == pytest.approx(one["values"], rel=tol)
            assert state["exact"] == pytest.approx(one["exact"], rel=tol)
            assert state["hyper"] == pytest.approx(one["hyper"])


@pytest.mark.parametrize(
    ("processes", "name"),
    [(p, n) for p, names in QUICK.items() for n in names if n not in SPECIAL],
)
def test_processes_with_parts_compute_what_one_does(found, processes, name):
    check_same(name, found[processes][name], 1e-5 if name == "float32" else tolerance(name))


def tolerance(name):
    """With a drift policy the leading vectors have an error of 1e-3 at their refresh."""
    law, _, policy = name.partition(" ")[2].rpartition("-")
    leading = "leading" in name or law == "leading"
    return 1e-6 if leading and "drift" in (policy, name.rpartition(" ")[2]) else 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_every_case(processes, tmp_path):
    names = [n for p, n in SLOW if p == processes and n not in ("both drift", "mixed", "offloaded")]
    for name, states in run(processes, names, tmp_path).items():
        check_same(name, states, 1e-5 if name == "float32" else tolerance(name))


@pytest.mark.slow
def test_mixed_precision_and_offloaded_weights(tmp_path):
    found = run(2, ["mixed", "offloaded"], tmp_path)
    one = cases.fitted(steps=5)
    for name, tol in (("mixed", 2e-2), ("offloaded", 1e-5)):
        for state in found[name]:
            assert state["dtypes"] == ["torch.float32"]
            assert distance(state["net"], one["net"]) < tol


def test_saved_by_two_processes_and_loaded_by_one(found):
    """An exact policy has nothing cached, so that the run goes on as if it had not been saved."""
    one = cases.fitted(steps=8, policy="exact")
    for state in found[2]["saved"]:
        assert state["keys"] == ["_extra_state"]
        assert distance(state["net"], one["net"]) < 1e-10
        assert distance(state["loaded"], one["net"]) < 1e-10
    goes_on = cases.fitted(steps=3, policy="exact", state=found["folder"] / "checkpoint")
    assert distance(goes_on["net"], one["net"]) < 1e-10


def test_a_killed_process_ends_the_others_with_an_error(found):
    first, second = found[2]["killed"]
    assert second is None
    assert first["error"] == "ProcessError"
    assert "another process cannot be reached" in first["message"]


def test_what_is_not_supported_is_refused_by_name(found):
    for state in found[4]["refused"]:
        gated, integrated, partial_, whole, by_itself, broken = state["messages"]
        assert "0.weight is spread over processes" in gated
        assert "acts only above a threshold" in gated
        assert "integrates a tail index out" in integrated
        assert "0.weight is a DTensor with the placements [Partial(sum)" in partial_
        assert "Partial is not supported" in partial_
        assert "give a DTensor with the placements [Shard(dim=0)]" in whole
        assert "is spread over 4 processes, and 1 work together now" in by_itself
        assert "0.weight holds 1 entries that are not finite" in broken


def test_processes_analyse_what_one_does(found):
    one = cases.analyzed()
    for state in found[4]["analyzed"]:
        assert state == one
    assert one["rows"][1].count("'name'") > 5


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_part_in_a_box_is_that_of_the_matrix(axis):
    """The views of local boxes are the rows and columns that they say, of every layer."""
    from bayes_htr.spectra.shards import _view

    checked = 0
    for parameter in weights_of(cases.layers()):
        tensor = parameter.tensor.detach()
        if tensor.ndim <= axis:
            continue
        for matrix in parameter.matrices:
            whole = matrix.view(tensor)
            side = tensor.shape[axis]
            for start, stop in ((0, side), (0, side // 2), (side // 2, side), (side, side)):
                box = [(0, n) for n in tensor.shape]
                box[axis] = start, stop
                local = tensor.narrow(axis, start, stop - start)
                arrangement = arrangement_of(matrix.view, tensor.shape)
                rows, columns, view = _view("x", tensor, arrangement, tuple(box))
                assert isinstance(view, LocalPart)
                torch.testing.assert_close(view(local), whole[rows[:, None], columns])
                checked += 1
    assert checked > 20
    assert len(matrices_of(cases.layers())) > 12


@pytest.mark.parametrize("rows", [0, 3, 700, 1500])
def test_sums_by_blocks(rows):
    W = torch.randn(rows, 7)
    exact = W.double().T @ W.double()
    torch.testing.assert_close(gram_of(W), exact)
    factor = factor_of(W)
    torch.testing.assert_close(factor.T @ factor, exact)
    square = exact + torch.eye(7)
    torch.testing.assert_close(times(W, square, wide=False), (W.double() @ square).float())
    torch.testing.assert_close(times(W.T, square, wide=True), (square @ W.T.double()).float())


def test_an_energy_of_plain_weights_has_no_byte_string():
    energy = htr.bind(htr.Priors(cases.LOMAX), nn.Linear(4, 3))
    assert isinstance(energy.state_dict()["_extra_state"], torch.Tensor)

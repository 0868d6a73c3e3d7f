"""Flags that are read late, as on an accelerator: refreshes come a check later, no step waits."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import bayes_htr as htr
from bayes_htr.engine.refresh import DelayedFlags

MARKS = [("a", 1), ("b", 4), ("c", 2)]
ESD = htr.Priors({"*.weight": htr.ESD(htr.Lomax(2.0, 1.0))})
TOP = htr.Priors({"*.weight": htr.MaxEigenvalue(htr.Frechet(2.0, 1.0))})


def flags(*raised):
    return torch.tensor([name in raised for name, _ in MARKS])


def network():
    return nn.Sequential(nn.Linear(20, 30, bias=False), nn.Linear(30, 20, bias=False))


def bound(priors, late, *, check_every=2):
    """A network and its energy, whose flags are read late or at once."""
    net = network()
    energy = htr.bind(priors, net, refresh=htr.Drift(0.1, check_every))
    energy._scheduler.flags.late = late
    return net, energy


def refreshed(net, energy, calls, changes):
    """The calls at which the first matrix is refreshed; `changes` says what happens before some."""
    found = []
    for call in range(1, calls + 1):
        changes.get(call, lambda: None)()
        before = energy.refreshes["0.weight"]
        energy.backward()
        if energy.refreshes["0.weight"] > before:
            found.append(call)
    return found


def double(net):
    def change():
        with torch.no_grad():
            net[0].weight.mul_(2)

    return change


def test_on_the_cpu_flags_are_read_at_once():
    read = DelayedFlags().read
    assert read(flags("b"), MARKS) == [("b", 4)]
    assert read(flags(), MARKS) == []
    assert read(flags("a", "c").to(torch.uint8), MARKS) == [("a", 1), ("c", 2)]


def test_late_flags_are_read_at_the_next_look():
    late = DelayedFlags(late=True)
    assert late.read(flags("b"), MARKS) == []
    assert late.read(flags("a"), MARKS) == [("b", 4)]
    assert late.read(flags(), MARKS[::-1]) == [("a", 1)]
    assert late.read(flags(), MARKS) == []


@pytest.mark.parametrize("copied", ["state", "deepcopy"])
def test_what_is_under_way_is_copied(copied):
    late = DelayedFlags(late=True)
    late.read(flags("b", "c"), MARKS)
    if copied == "state":
        other = DelayedFlags(late=True)
        other.load([list(mark) for mark in late.waiting()])
    else:
        other = copy.deepcopy(late)
    for each in (late, other):
        assert each.read(flags(), MARKS) == [("b", 4), ("c", 2)]
        assert each.read(flags(), MARKS) == []


def test_flags_that_are_sent_do_not_follow_what_they_were_computed_from():
    late, sent = DelayedFlags(late=True), flags("b")
    late.read(sent, MARKS)
    sent.fill_(True)
    assert late.read(flags(), MARKS) == [("b", 4)]


@pytest.mark.parametrize(("late", "expected"), [(False, [1, 6]), (True, [1, 8])])
def test_a_refresh_comes_one_check_later(late, expected):
    net, energy = bound(ESD, late)
    assert refreshed(net, energy, 14, {5: double(net)}) == expected
    assert energy.refreshes["1.weight"] == 1


def test_a_matrix_that_has_been_refreshed_since_is_not_refreshed_again():
    net, energy = bound(ESD, late=True)
    changes = {5: double(net), 7: energy.invalidate}
    assert refreshed(net, energy, 14, changes) == [1, 7]


def test_a_resumed_energy_reads_what_was_under_way():
    net, energy = bound(ESD, late=True)
    refreshed(net, energy, 6, {5: double(net)})
    other, again = bound(ESD, late=True)
    other.load_state_dict(net.state_dict())
    again.load_state_dict(copy.deepcopy(energy.state_dict()))
    for a, b in ((net, energy), (other, again)):
        a.zero_grad()
        assert refreshed(a, b, 4, {}) == [2]
    assert torch.equal(net[0].weight.grad, other[0].weight.grad)


def waits(*_, **__):
    raise AssertionError("the host waits for a tensor")


@pytest.fixture
def no_waiting(monkeypatch):
    """Makes whatever reads a tensor's value raise, from when it is called."""

    def start():
        for name in ("item", "tolist", "nonzero"):
            monkeypatch.setattr(torch.Tensor, name, waits)
        for name in ("bool", "float", "int", "index", "contains"):
            monkeypatch.setattr(torch.Tensor, f"__{name}__", waits)

    return start


@pytest.mark.parametrize("entry", ["forward", "backward"])
@pytest.mark.parametrize("priors", [ESD, TOP], ids=["esd", "top"])
def test_a_call_that_refreshes_nothing_does_not_wait(no_waiting, priors, entry):
    """Of weights that stay, pairs are followed at calls 2, 4, 8 and 16; 9 to 15 hold a check."""
    _, energy = bound(priors, late=True, check_every=4)
    for _ in range(8):
        energy.backward()
    before = energy.refreshes
    no_waiting()
    for _ in range(9, 16):
        if entry == "forward":
            (energy() / 100).backward()
        else:
            energy.backward(0.01)
    assert energy.refreshes == before


def test_a_call_that_refreshes_does_wait(no_waiting):
    _, energy = bound(ESD, late=True)
    energy.backward()
    energy.invalidate()
    no_waiting()
    with pytest.raises(AssertionError, match="the host waits"):
        energy.backward()

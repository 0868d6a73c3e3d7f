"""One input, several, or several by name; and outputs with `.logits`."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import bayes_htr as htr
from bayes_htr.models.examples import checked_inputs
from bayes_htr.models.inputs import call, call_with, concatenated, map_inputs, num_examples

A, B = torch.randn(5, 3), torch.randn(5, 2)
FORMS = {
    "one": A,
    "several": (A, B),
    "by name": {"a": A, "b": B},
}


class TwoInputs(nn.Module):
    """Takes one input or two, by position or name, and returns an object with logits."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, a, b=None):
        logits = self.first(a)
        return SimpleNamespace(logits=logits if b is None else logits + self.second(b))


def expected(net, x):
    b = None if isinstance(x, torch.Tensor) else B
    return net(A, b).logits


@pytest.mark.parametrize("x", FORMS.values(), ids=FORMS)
def test_networks_are_called_as_the_inputs_say(x):
    net = TwoInputs()
    assert torch.equal(call(net, x), expected(net, x))
    zero = {"first.weight": torch.zeros(4, 3)}
    changed = call_with(net, zero, x)
    nn.init.zeros_(net.first.weight)
    assert torch.equal(changed, expected(net, x))


@pytest.mark.parametrize("x", FORMS.values(), ids=FORMS)
def test_batches_are_put_together_in_their_form(x):
    halves = [map_inputs(lambda t: t[:2], x), map_inputs(lambda t: t[2:], x)]
    assert [num_examples(half) for half in halves] == [2, 3]
    whole = concatenated(halves)
    assert type(whole) is type(x)
    same = torch.utils._pytree.tree_map(torch.equal, whole, x)
    assert all(torch.utils._pytree.tree_leaves(same))


def test_outputs_in_a_dictionary():
    assert torch.equal(call(lambda a: {"logits": a, "other": 0}, A), A)


@pytest.mark.parametrize(
    ("x", "count", "several", "form"),
    [
        ([A, B], 5, None, tuple),  # as the collation of a loader makes it of tuples
        ((A, B), 5, None, tuple),
        ([A[0], A[1]], 2, None, torch.Tensor),
        (list(torch.ones(4, 4)), 4, None, torch.Tensor),  # examples one by one, as ever
        (tuple(torch.ones(4, 4)), 4, None, tuple),
        ([torch.ones(2, 3), torch.ones(2, 3)], 2, 2, tuple),  # the network has two inputs
        ([[1.0, 2.0], [3.0, 4.0]], 2, None, torch.Tensor),
    ],
)
def test_several_inputs_and_examples_one_by_one(x, count, several, form):
    assert isinstance(checked_inputs(x, "train", count, several), form)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({"a": A, "b": B[:3]}, r"inputs a of shape \(5, 3\), b of shape \(3, 2\) must have the sa"),
        ({}, "there are no inputs"),
        ({"a": A, "b": B * float("nan")}, "10 inputs are not finite"),
        ({"words": ["a", "b"]}, "input 'words' of dtype <U1 are no numbers"),
        ({"image": torch.ones(3, 2).byte()}, "uint8"),
    ],
)
def test_inputs_that_cannot_be_used(x, message):
    with pytest.raises(htr.DataError, match=f"train.*{message}"):
        checked_inputs(x, "train")

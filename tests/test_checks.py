"""Numbers in their ranges, and errors that name the setting, its value and the range."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from bayes_htr._checks import number, shown, texts, whole_number
from bayes_htr.errors import DataError


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.int64(1), Fraction(1, 2)])
def test_real_numbers_are_floats(value):
    result = number(value, "lr", above=0, below=2)
    assert type(result) is float
    assert result == value


@pytest.mark.parametrize(
    "value", [0, -1, 2, np.nan, np.inf, 10**400, True, None, "1", torch.ones(()), 1j], ids=repr
)
def test_other_numbers_are_refused(value):
    with pytest.raises(
        ValueError, match=r"^lr=.* must be a finite number greater than 0 and below 2$"
    ):
        number(value, "lr", above=0, below=2)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({}, "eps=nan must be a finite number"),
        ({"at_least": 0}, "eps=nan must be a finite number of at least 0"),
        ({"below": 1}, "eps=nan must be a finite number below 1"),
        (
            {"at_least": 0, "below": 0.5},
            "eps=nan must be a finite number of at least 0 and below 0.5",
        ),
    ],
)
def test_the_range_is_told(bounds, message):
    with pytest.raises(DataError) as caught:
        number(np.nan, "eps", error=DataError, **bounds)
    assert str(caught.value) == message
    assert number(0, "eps", **bounds) == 0.0


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_integers_of_any_library_are_ints(value):
    result = whole_number(value, "epochs", at_least=3, below=4)
    assert type(result) is int
    assert result == 3


@pytest.mark.parametrize("value", [2, 4, 3.0, np.float64(3), True, None, "3"], ids=repr)
def test_other_integers_are_refused(value):
    with pytest.raises(ValueError, match=r"^epochs=.* a whole number of at least 3 and below 4$"):
        whole_number(value, "epochs", at_least=3, below=4)


def test_texts():
    assert texts("a", "names") == ("a",)
    assert texts(["a", "b"], "names") == ("a", "b")
    assert texts((), "names") == ()
    for value in ([0], 0, None, ["a", b"b"], b"a"):
        with pytest.raises(KeyError, match="must be a text or several texts"):
            texts(value, "names", error=KeyError)


def test_long_values_are_shown_on_one_line():
    net = torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(40)))
    text = shown(net)
    assert text.startswith("Sequential( (0): Linear(")
    assert text.endswith("... (of type Sequential)")
    assert "\n" not in text
    assert len(text) < 140
    assert shown("a\nb") == r"'a\nb'"
    with pytest.raises(ValueError, match=r"^lr=array\(\[.*\.\.\. \(of type ndarray\) must be"):
        number(np.arange(100.0), "lr")

"""Laws, priors and schedules as values: equality, copies, text, dictionaries and files."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import sys

import pytest
import tomli_w

import bayes_htr as htr
from bayes_htr.priors import Prior
from bayes_htr.priors.values import Value
from tests.priors.examples import LAWS, OTHERS, PRIORS, WHOLE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_every_class_is_in_the_table(value):
    assert type(value).__name__ in Value._types


def test_the_table_is_complete():
    seen: set[str] = set()

    def walk(value):
        if isinstance(value, Value):
            seen.add(type(value).__name__)
            for field in dataclasses.fields(value):
                walk(getattr(value, field.name))
        elif isinstance(value, tuple):
            for item in value:
                walk(item)

    walk((*LAWS, *PRIORS, *WHOLE, *OTHERS))
    assert seen == set(Value._types)


@pytest.mark.parametrize(
    "copier",
    [
        copy.copy,
        copy.deepcopy,
        lambda v: pickle.loads(pickle.dumps(v)),
        lambda v: eval(repr(v), {name: getattr(htr, name) for name in htr.__all__}),
        lambda v: type(v).from_dict(v.to_dict()),
        lambda v: type(v).from_dict(json.loads(json.dumps(v.to_dict()))),
        lambda v: type(v).from_dict(tomllib.loads(tomli_w.dumps(v.to_dict()))),
    ],
    ids=["copy", "deepcopy", "pickle", "repr", "dict", "json", "toml"],
)
def test_copies_are_equal(copier, value):
    other = copier(value)
    assert other == value
    assert type(other) is type(value)
    assert hash(other) == hash(value)
    assert repr(other) == repr(value)


def test_values_are_frozen(value):
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, 1)


def test_values_differ_from_each_other():
    for table in (LAWS, PRIORS, WHOLE):
        assert len(set(table)) == len(table)
        assert len({repr(v) for v in table}) == len(table)


def test_one_form_for_one_thing():
    assert htr.Lomax(tail_index=1.0) == htr.Lomax(2, 1) == htr.Lomax(alpha=2.0)
    A, B, C = (htr.Entries(htr.Normal(0, s)) for s in (1, 2, 3))
    assert A & B & C == A & (B & C)
    nested = type(A & B)((A & B, C))
    assert nested == A & B & C
    assert A & B != B & A
    assert htr.Priors({"a": A, "b": B}) != htr.Priors({"b": B, "a": A})
    assert htr.Normal(0.0, 1.0) != htr.LogNormal(0.0, 1.0)


def test_from_toml(whole, tmp_path):
    path = tmp_path / "priors.toml"
    path.write_bytes(tomli_w.dumps(whole.to_dict()).encode())
    assert htr.Priors.from_toml(path) == whole
    assert htr.Priors.from_toml(str(path)) == whole


LAW = {"type": "Lomax", "alpha": 2.0}
PRIOR = {"type": "ESD", "law": LAW}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "None"),
        (3, "3"),
        ("ESD", "ESD"),
        ({}, "type=None"),
        ({"type": "os.system"}, "os.system"),
        ({"type": "Law"}, "'Law'"),
        ({"type": ["ESD"]}, "ESD"),
        ({"type": "Prior"}, "'Prior'"),
        (LAW, "not a Prior"),
        ({"type": "ESD"}, "law"),
        ({"type": "ESD", "law": 3}, "law=3"),
        ({"type": "ESD", "law": {"type": "Lomex"}}, "Lomex"),
        ({"type": "ESD", "law": PRIOR}, "law="),
        ({"type": "ESD", "law": LAW, "tial": 0.5}, "tial"),
        ({"type": "ESD", "law": LAW, "tail": "half"}, "half"),
        ({"type": "ESD", "law": {"type": "Lomax", "alpha": [2.0]}}, "alpha"),
        ({"type": "ESD", "law": {"type": "Lomax", "alpha": {"alpha": 2}}}, "type=None"),
        ({"type": "ESD", "law": {"type": "Lomax", "alpha": float("nan")}}, "finite"),
        ({"type": "ESD", "law": {"type": "Lomax", "alpha": 10**400}}, "finite"),
        ({"type": "Product", "factors": 3}, "Product"),
        ({"type": "Product", "factors": [PRIOR]}, "two or more"),
        ({"type": "Product", "factors": [PRIOR, LAW]}, "two or more"),
        ({"type": "Scaled", "prior": PRIOR}, "strength"),
        ({"type": "Scaled", "prior": PRIOR, "strength": -1}, "strength"),
        ({"type": "Scaled", "prior": LAW, "strength": 1}, "prior="),
        ({"type": "Scheduled", "prior": PRIOR, "schedule": LAW}, "schedule="),
    ],
    ids=str,
)
def test_bad_dictionaries(data, said):
    with pytest.raises(htr.PriorError, match=said):
        Prior.from_dict(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (3, "3"),
        ([PRIOR], "table"),
        ({}, "nothing"),
        (PRIOR, "'ESD'"),
        ({"priors": {}, "everywhere": PRIOR}, "either"),
        ({"priors": {}, "strenth": 1}, "strenth"),
        ({"priors": {}, "strength": "1"}, "strength"),
        ({"priors": {}, "threshold": True}, "threshold"),
        ({"priors": {}, "schedules": 3}, "schedules"),
        ({"priors": {}, "schedules": [PRIOR]}, "not a Schedule"),
        ({"priors": [PRIOR]}, "table of patterns"),
        ({"priors": {"a": LAW}}, "not a Prior"),
        ({"priors": {"": PRIOR}}, "pattern"),
        ({"everywhere": LAW}, "not a Prior"),
    ],
    ids=str,
)
def test_bad_dictionaries_of_priors(data, said):
    with pytest.raises(htr.PriorError, match=said):
        htr.Priors.from_dict(data)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[priors]\nstrength = = 3\n", "line 2"),
        (b'[priors."a"]\ntype = "ESD"\n\n[priors."a"]\n', "line 4"),
        (b'[everywhere]\ntype = "Esd"\n', "Esd"),
        (b"", "nothing"),
        (b"\xff\xfe", "utf-8"),
        (None, "No such file"),
    ],
)
def test_bad_files_are_named(content, said, tmp_path):
    path = tmp_path / "my priors.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(htr.PriorError, match=rf"my priors\.toml: .*{said}"):
        htr.Priors.from_toml(path)
    with pytest.raises(htr.PriorError, match="directory"):
        htr.Priors.from_toml(tmp_path)

"""Results are written as they are measured, and not measured again."""

import json
import platform

import pytest
import torch
from rich.console import Console

import bayes_htr as htr
from benchmarks.common.machine import command_line, machine_facts
from benchmarks.common.parts import Part, perform
from benchmarks.common.results import Results
from benchmarks.common.tables import TextTable

MACHINE = {"cpu": "a", "gpu": None, "cores": 2, "threads": 1, "torch": "2", "bayes_htr": "0"}
QUIET = Console(quiet=True)


def part(cell, value, measured, **settings):
    def measure(tick):
        measured.append(cell)
        if value is None:
            raise KeyboardInterrupt
        return {"value": value}

    return Part(cell, "cost", 1, measure, settings)


def test_what_is_done_survives_an_interruption_and_is_skipped(tmp_path):
    measured = []
    with pytest.raises(KeyboardInterrupt):
        perform(
            [part("a/x", 1.0, measured), part("b/x", None, measured)],
            Results(tmp_path / "new", "overhead", MACHINE),
            QUIET,
        )
    again = Results(tmp_path / "new", "overhead", MACHINE)
    assert again.result("a/x", "cost") == {"value": 1.0}
    assert again.result("b/x", "cost") is None
    perform([part("a/x", 1.0, measured), part("b/x", 2.0, measured)], again, QUIET)
    assert measured == ["a/x", "b/x", "b/x"]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["overhead.json"]


@pytest.mark.parametrize(
    ("machine", "settings", "skipped"),
    [
        (MACHINE, {"steps": 5, "refresh": {"type": "Exact"}}, True),
        (MACHINE | {"date": "tomorrow", "command": "other"}, {"steps": 5}, False),
        (MACHINE, {"steps": 6, "refresh": {"type": "Exact"}}, False),
        (MACHINE | {"threads": 2}, {"steps": 5, "refresh": {"type": "Exact"}}, False),
        (MACHINE | {"date": "tomorrow"}, {"steps": 5, "refresh": {"type": "Exact"}}, True),
    ],
)
def test_same_settings_on_a_like_machine_are_skipped(tmp_path, machine, settings, skipped):
    first = Results(tmp_path, "overhead", MACHINE)
    first.put("a/x", "cost", {"steps": 5, "refresh": {"type": "Exact"}}, {"value": 1})
    measured = []
    results = Results(tmp_path, "overhead", machine)
    perform([part("a/x", 2.0, measured, **settings)], results, QUIET)
    assert (measured == []) == skipped
    assert len(results.runs) == (1 if skipped else 2)


def test_schema(tmp_path):
    results = Results(tmp_path, "growth", MACHINE)
    results.put("8/lomax", "growth", {"steps": 5}, {"value": (1, 2)})
    assert json.loads((tmp_path / "growth.json").read_text()) == {
        "format": 1,
        "benchmark": "growth",
        "runs": [MACHINE],
        "cells": {
            "8/lomax": {"growth": {"run": 0, "settings": {"steps": 5}, "result": {"value": [1, 2]}}}
        },
    }


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"format": 1, "benchmark": "growth", "runs": [], "cells": {}}',
        '{"format": 2, "benchmark": "overhead", "runs": [], "cells": {}}',
        '{"format": 1, "benchmark": "overhead", "runs": [], '
        '"cells": {"a": {"b": {"run": 0, "settings": {}, "result": {}}}}}',
    ],
)
def test_a_foreign_file_is_named_and_left_alone(tmp_path, text):
    (tmp_path / "overhead.json").write_text(text)
    with pytest.raises(htr.CheckpointError, match=r"overhead\.json"):
        Results(tmp_path, "overhead", MACHINE)
    assert (tmp_path / "overhead.json").read_text() == text


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(htr.OutputError, match="file"):
        Results(tmp_path / "file" / "inside", "overhead", MACHINE)


def test_machine_facts_name_no_host_and_no_path(tmp_path):
    words = ["growth", "--out", "/home/me/x", "--data-dir=/secret", "--sizes", "8"]
    facts = machine_facts(torch.device("cpu"), words)
    assert facts["command"] == "python -m benchmarks growth --out DIR --data-dir=DIR --sizes 8"
    assert set(facts) == {
        *("cpu", "gpu", "cores", "threads", "torch", "python", "bayes_htr", "date", "command")
    }
    assert platform.node() not in map(str, facts.values())
    assert command_line([]) == "python -m benchmarks"


def test_latex():
    table = TextTable("50 % & more", ("a_b", "c^~"), [["[1, 2]", r"x\y"]])
    lines = table.latex().splitlines()
    assert lines[1] == r"\caption{50 \% \& more}"
    assert lines[5] == r"{a\_b} & {c\textasciicircum{}\textasciitilde{}} \\"
    assert lines[7] == r"{[1, 2]} & {x\textbackslash{}y} \\"

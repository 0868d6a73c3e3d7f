"""The file of results, what is refused, and facts about machines."""

import json
import platform

import pytest
import torch

import bayes_htr as htr
from benchmarks.common.results import Results, command_line, machine_facts

MACHINE = {"cpu": "a", "gpu": None, "cores": 2, "threads": 1, "torch": "2", "bayes_htr": "0"}


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

"""`analyze` with a stand-in for WeightWatcher; no number of seconds is asserted."""

import json
import sys
import types
from typing import ClassVar

import pytest
import torch

from bayes_htr.analysis import analyze
from benchmarks.__main__ import main


class Details(list):
    """Rows, as a data frame gives them."""

    def to_dict(self, orient):
        assert orient == "records"
        return list(self)


class StandIn:
    """Our own rows by slices under its names, alpha off by a thousandth."""

    asked: ClassVar[list] = []

    def __init__(self, model):
        self.model = model

    def analyze(self, *, randomize, mp_fit):
        self.asked.append((randomize, mp_fit))
        rows = analyze(self.model, conv="slices", compare=False, min_size=1).rows
        return Details(
            {
                "longname": row["name"].removesuffix(".weight"),
                "alpha": 1.001 * row["alpha"],
                "lambda_max": row["lambda_max"],
            }
            for row in rows
        )


def command(out):
    options = ["--nets", "lenet5", "--repeats", "1", "--threads", "1"]
    return ["analyze", "--out", str(out), *options]


def test_both_are_timed(tmp_path, monkeypatch, capsys):
    module = types.ModuleType("weightwatcher")
    module.WeightWatcher = StandIn
    monkeypatch.setitem(sys.modules, "weightwatcher", module)
    before = torch.get_num_threads()
    assert main(command(tmp_path)) == 0
    assert torch.get_num_threads() == before
    printed = capsys.readouterr().out
    for word in ("flatten", "slices", "default", "same", "full", "ratio"):
        assert word in printed
    cells = json.loads((tmp_path / "analyze.json").read_text())["cells"]
    assert set(cells) == {"lenet5/flatten", "lenet5/slices"}
    for parts in cells.values():
        assert set(parts) == {"default", "same", "full"}
        for part in parts.values():
            assert part["result"]["ours"] > 0 < part["result"]["weightwatcher"]
            assert part["result"]["difference"] == pytest.approx(0.001, rel=0.01)
    assert {(False, False), (True, True)} == set(StandIn.asked)


def test_without_weightwatcher(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "weightwatcher", None)
    assert main(command(tmp_path)) == 1
    assert 'pip install "bayes-htr[peers]"' in capsys.readouterr().err.replace("\n", " ")

"""`search` where WeightWatcher is, and `analyze` with a stand-in; no time is asserted."""

import json
import sys
import types
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy import stats

from bayes_htr.analysis import analyze
from benchmarks.__main__ import main
from benchmarks.tails.speed import wishart_eigenvalues


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


def test_calibration(tmp_path, capsys):
    options = ["--sizes", "30", "12", "--samples", "6", "--bootstrap", "19"]
    command = ["tails", "--out", str(tmp_path), *options]
    assert main(command) == 0
    printed = capsys.readouterr().out
    for word in ("xmin known", "xmin searched", "lognormal by Vuong", "smooth"):
        assert word in printed
    data = json.loads((tmp_path / "tails.json").read_text())
    assert set(data["cells"]) == {
        f"{law}/{n}" for law in ("pure", "bulk", "smooth", "lognormal") for n in (12, 30)
    }
    searched = data["cells"]["bulk/30"]["searched"]["result"]
    assert searched["averaged"]["width"] > searched["plain"]["width"] > 0
    for kind in ("plain", "averaged"):
        shares = searched[kind]
        assert shares["covers"] + shares["above"] + shares["below"] == pytest.approx(1)
    assert "| 12 | lognormal |" in (tmp_path / "tails.md").read_text()
    assert main(command) == 0
    assert "10 of 10 parts are in tails.json already" in capsys.readouterr().out


def test_search_needs_weightwatcher(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "weightwatcher.WW_powerlaw", None)
    assert main(["search", "--out", str(tmp_path), "--sizes", "50"]) == 1
    assert "bayes-htr[peers]" in capsys.readouterr().err


def test_search(tmp_path, capsys):
    pytest.importorskip("weightwatcher")
    assert main(["search", "--out", str(tmp_path), "--sizes", "1024"]) == 0
    cells = json.loads((tmp_path / "search.json").read_text())["cells"]
    for cell in cells.values():
        result = cell["speed"]["result"]
        assert result["difference"] < 1e-9
        assert result["weightwatcher_ms"] > 3 * result["ours_ms"]  # in fact 50


def test_eigenvalues_of_gaussian_matrices_without_the_matrices():
    random = np.random.default_rng(0)
    drawn = np.array([wishart_eigenvalues(3, 5, random) for _ in range(4000)])
    W = random.standard_normal((4000, 3, 5))
    direct = np.linalg.eigvalsh(W @ W.transpose(0, 2, 1))
    for k in range(3):
        assert stats.ks_2samp(drawn[:, k], direct[:, k]).pvalue > 1e-3

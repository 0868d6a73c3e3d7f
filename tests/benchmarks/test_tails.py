"""`tails` on a few samples, `search` where WeightWatcher is, and what is sampled."""

import json
import sys

import numpy as np
import pytest
from scipy import integrate, stats

from benchmarks.__main__ import main
from benchmarks.tails.calibration import uniformity
from benchmarks.tails.samples import LAWS
from benchmarks.tails.search_speed import wishart_eigenvalues


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


def test_bad_input_is_named(tmp_path, capsys):
    assert main(["tails", "--out", str(tmp_path), "--alpha", "0.5"]) == 1
    assert "--alpha 0.5" in capsys.readouterr().err


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


@pytest.mark.parametrize("law", LAWS)
def test_the_tail_is_a_power_law_from_1_on(law):
    values = LAWS[law](40_000, 2.5, np.random.default_rng(0))
    tail = values[values > 1]
    assert len(tail) > 4000
    assert stats.kstest(tail, stats.pareto(1.5).cdf).pvalue > 1e-3


def test_smooth_joins_without_a_step():
    def density(x):
        return np.exp(-2.5 * (x - 1)) if x < 1 else x**-2.5

    total = integrate.quad(density, 0, 1)[0] + integrate.quad(density, 1, np.inf)[0]
    values = LAWS["smooth"](200_000, 2.5, np.random.default_rng(0))
    for low, high in ((0.0, 0.2), (0.9, 1.0), (1.0, 1.1), (2.0, 3.0)):
        share = ((values >= low) & (values < high)).mean()
        assert share == pytest.approx(integrate.quad(density, low, high)[0] / total, rel=0.04)


def test_eigenvalues_of_gaussian_matrices_without_the_matrices():
    random = np.random.default_rng(0)
    drawn = np.array([wishart_eigenvalues(3, 5, random) for _ in range(4000)])
    W = random.standard_normal((4000, 3, 5))
    direct = np.linalg.eigvalsh(W @ W.transpose(0, 2, 1))
    for k in range(3):
        assert stats.ks_2samp(drawn[:, k], direct[:, k]).pvalue > 1e-3


def test_uniformity():
    random = np.random.default_rng(0)
    steps = random.integers(1, 201, 2000) / 200
    assert uniformity(steps, 199) > 0.01
    assert uniformity(steps**1.2, 199) < 1e-3

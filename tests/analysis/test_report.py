"""Reports, and comparisons of two networks."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import bayes_htr as htr
from bayes_htr.analysis.matrix import MatrixSpectrum
from bayes_htr.analysis.report import compare_matrices
from bayes_htr.analysis.verdict import HEAVY_TAILED, Verdict
from bayes_htr.errors import DataError
from tests.analysis.cases import network, pareto


@pytest.fixture
def report():
    return htr.analyze(network())


def test_comparison_of_two_networks(report):
    other = htr.analyze(network(spike=2.0))
    found = report.compare(other)
    first = found.rows[0]
    a, b = report.rows[0], other.rows[0]
    assert first["lambda_max_ratio"] == pytest.approx(b["lambda_max"] / a["lambda_max"])
    assert (first["alpha"], first["other_alpha"]) == (a["alpha"], b["alpha"])
    assert first["first_verdict"].startswith("like a random matrix")
    assert first["verdict"].startswith("not compared: like a random matrix in ")
    assert math.isnan(first["difference"]) and math.isnan(first["difference_low"])
    assert found.rows[2]["verdict"] == "not compared: too little to tell in both"
    assert "difference" in str(found)


def test_the_interval_of_a_difference():
    first_report, other = (htr.analyze({"w": pareto(300, i, 1)}) for i in (1.5, 2.0))
    (first,) = first_report.compare(other).rows
    a, b = first_report.rows[0], other.rows[0]
    assert first["difference"] == b["alpha"] - a["alpha"]
    down = math.hypot(b["alpha"] - b["searched_low"], a["searched_high"] - a["alpha"])
    up = math.hypot(b["searched_high"] - b["alpha"], a["alpha"] - a["searched_low"])
    assert first["difference_low"] == pytest.approx(first["difference"] - down)
    assert first["difference_high"] == pytest.approx(first["difference"] + up)


def test_differences_are_told_where_there_are_any():
    heavy, light = (htr.analyze({"w": pareto(300, i, 1)}) for i in (1.0, 4.0))
    assert heavy.compare(light).rows[0]["verdict"] == "lighter-tailed in the second"
    assert light.compare(heavy).rows[0]["verdict"] == "heavier-tailed in the second"
    again = htr.analyze({"w": pareto(300, 1.0, 2)})
    assert heavy.compare(again).rows[0]["verdict"] == "no difference to tell"


def test_what_a_report_does_not_stand_behind_is_not_compared():
    steep = {"w": pareto(300, 4.0, 1)}
    for state, label in [
        ({"w": torch.randn(300, 300)}, "like a random matrix"),
        ({"w": torch.eye(300)}, "too little to tell"),
        ({"w": torch.full((300, 300), torch.nan)}, "too little to tell"),
        ({"w": torch.diag(torch.linspace(1, 9, 300)).sqrt()}, "power law doubtful"),
    ]:
        heavy, other = htr.analyze(steep), htr.analyze(state, bootstrap=100)
        for pair, side in (((heavy, other), "second"), ((other, heavy), "first")):
            (row,) = pair[0].compare(pair[1]).rows
            assert row["verdict"] == f"not compared: {label} in the {side}"
            assert math.isnan(row["difference"]) and math.isnan(row["difference_high"])


def test_an_interval_that_does_not_reach_its_estimate():
    row = {"name": "w", "N": 9, "M": 9, "rf": 1, "lambda_max": 1.0, "stable_rank": 1.0}
    row |= {"verdict": Verdict("heavy-tailed", HEAVY_TAILED), "alpha": 2.5}
    fit = htr.fit_powerlaw(1 + np.random.default_rng(0).pareto(1.5, 100))
    inside = replace(fit, alpha=2.5, interval=(2.0, 3.0))
    beyond = replace(inside, searched_interval=(2.7, 3.5))
    first, second = (MatrixSpectrum(row, fit.values, f, None) for f in (inside, beyond))
    ((found,), _) = compare_matrices([first], [second])
    assert (found["difference_low"], found["difference_high"]) == pytest.approx(
        (-0.5, math.hypot(1.0, 0.5))
    )


def test_networks_without_a_common_matrix(report):
    other = htr.analyze({"other": torch.randn(9, 9)})
    with pytest.raises(DataError, match=r"share no matrix .* other"):
        report.compare(other)
    with pytest.raises(ValueError, match=r"level=0.95 and level=0.5"):
        report.compare(htr.analyze(network(), level=0.5))
    kernel = htr.analyze({"w": torch.randn(16, 12, 3, 3)}, conv="slices")
    with pytest.raises(DataError, match="share no matrix"):
        kernel.compare(htr.analyze({"w": torch.randn(16, 12)}))
    partly = htr.analyze({"0.weight": network()[0].weight, "new": torch.randn(9, 9)})
    assert report.compare(partly).unmatched == ("1.weight", "2.weight", "new")


def test_json_says_how_the_report_was_made(tmp_path):
    options = {
        "layers": "[01].*",
        "exclude": ["1.*"],
        "seed": np.int64(3),
        "level": np.float32(0.5),
    }
    path = htr.analyze(network(), **options).to_json(tmp_path / "a.json")
    made = json.loads(path.read_text())
    settings = made["settings"]
    assert made["version"] == htr.__version__
    assert settings["layers"] == ["[01].*"] and settings["exclude"] == ["1.*"]
    assert (settings["seed"], settings["level"]) == (3, 0.5)


@pytest.mark.parametrize("other", ["other.pt", None, {"w": torch.ones(9, 9)}, torch.ones(9, 9)])
def test_a_report_is_compared_with_a_report(report, other):
    with pytest.raises(DataError, match=r"not a \w+; analyse it first: report\.compare\("):
        report.compare(other)


def test_other_arguments_that_are_no_text(report):
    with pytest.raises(ValueError, match="no matrix 0"):
        report.matrix(0)
    with pytest.raises(ValueError, match=r"columns=\[0\] must be a text"):
        report.table([0])
    with pytest.raises(ValueError, match="aspect='wide'"):
        htr.Farms(aspect="wide")
    with pytest.raises(ValueError, match=r"per_decade='8'"):
        htr.SpectrumHistory(per_decade="8")
    with pytest.raises(ValueError, match=r"matrices=\[0\]"):
        htr.SpectrumHistory([0])

"""The report of a study at any time, and runs as CSV."""

from __future__ import annotations

import csv
import io
import json
import sys
import warnings

import pytest
from rich.console import Console

from benchmarks.study.methods import GENERALISATION
from benchmarks.study.report import write_csv, write_report
from benchmarks.study.studies import STUDIES

CELL = "mlp-kmnist"
MAIN = STUDIES["generalisation"].main


@pytest.mark.parametrize("stage", ["trials", "one seed", "no opponents", "whole"])
def test_a_report_at_any_time(story, stage, around):
    cells = MAIN[:3] if stage == "whole" else MAIN[:1]
    for cell in cells:
        story.cell(cell, conventional="dropout", heavy_tailed="lomax")
        story.trial(cell, "none", {}, 0.9)
        story.trial(cell, "weighted_alpha", {"mu": 0.1}, 0.8)
        seeds = {"trials": 0, "one seed": 1}.get(stage, 3)
        some = GENERALISATION if stage == "whole" else ("none", "frechet", "dropout")
        for place, method in enumerate(some if seeds else ()):
            accuracies = around(0.8, seeds=seeds, seed=place)
            story.tests(cell, method, accuracies, alpha=2 + 0.1 * place)
    out = io.StringIO()
    outcomes = story.outcomes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(outcomes.log, outcomes.study, Console(file=out))
    assert "What is there" in out.getvalue()
    pictures = {path.stem for path in story.folder.glob("*.png")}
    assert (
        pictures
        == {
            "trials": {"strength"},
            "one seed": {"strength", "alpha", "curves"},
            "no opponents": {"strength", "alpha", "curves"},
            "whole": {"strength", "alpha", "curves", "forest"},
        }[stage]
    )
    page = (story.folder / "generalisation.md").read_text()
    assert {f"![{name}]({name}.png)" for name in pictures} == {
        line for line in page.splitlines() if line.startswith("![")
    }
    assert ("Confirmatory" in page) == (stage == "whole")


def test_csv(story):
    story.cell(CELL, conventional="dropout", heavy_tailed="lomax")
    story.tests(CELL, "none", [0.8])
    story.tests(CELL, "lomax", [0.9, None], alpha=4.0)
    runs, layers = (
        list(csv.DictReader(path.open(encoding="utf-8")))
        for path in write_csv(story.outcomes(), story.folder)
    )
    assert [(r["method"], r["seed"], r["entrant"], r["diverged"]) for r in runs] == [
        ("none", "0", "0", "0"),
        ("lomax", "0", "1", "0"),
        ("lomax", "1", "1", "1"),
    ]
    assert [r["accuracy"] for r in runs] == ["0.8", "0.9", ""]
    assert json.loads(runs[1]["numbers"]) == GENERALISATION["lomax"].trials[0]
    assert [(r["method"], r["matrix"], r["alpha"]) for r in layers] == [
        ("none", "fc1.weight", "4.0"),
        ("none", "fc2.weight", "5.0"),
        ("lomax", "fc1.weight", "5.0"),
        ("lomax", "fc2.weight", "6.0"),
    ]


def test_without_matplotlib_there_are_tables(story, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    story.cell(CELL)
    story.tests(CELL, "none", [0.8, 0.8])
    out = io.StringIO()
    write_report(story.outcomes().log, STUDIES["generalisation"], Console(file=out))
    assert "no pictures" in out.getvalue()
    assert (story.folder / "runs.csv").exists()
    assert "![" not in (story.folder / "generalisation.md").read_text()

"""Statistics, tables, figures and CSV of a study, from lines that were made up."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
import warnings
from dataclasses import asdict

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy import stats

from benchmarks.study.generalisation import pictures
from benchmarks.study.generalisation.cells import MAIN, Base
from benchmarks.study.generalisation.claims import by_strength, correlation
from benchmarks.study.generalisation.csv_files import write_csv
from benchmarks.study.generalisation.fits import COLUMNS, Run, packed
from benchmarks.study.generalisation.methods import METHODS
from benchmarks.study.generalisation.outcomes import CHANCE, Outcomes
from benchmarks.study.generalisation.paired import holm
from benchmarks.study.generalisation.report import write_report
from benchmarks.study.generalisation.run_log import FILE, RunLog
from benchmarks.study.generalisation.tables import study_tables

BASE = Base(3, 0.1, "cosine")
CELL = "mlp-kmnist"
IMAGES = 400
MATRIX = dict(zip(COLUMNS, (3.0, 0.1, 2.0, 9.0, 20.0), strict=True))


class Story:
    """Lines of a study as it could have been."""

    def __init__(self, folder):
        self.folder, self.lines = folder, []

    def cell(self, cell, **entrants):
        self.line("base", {"cell": cell}, base=asdict(BASE), ends={})
        if entrants:
            named = {family.replace("_", "-"): method for family, method in entrants.items()}
            self.line("entrants", {"cell": cell}, entrants=named)

    def line(self, kind, settings, **rest):
        self.lines.append({"kind": kind, "settings": settings, **rest})

    def trial(self, cell, method, numbers, accuracy, seed=1000, base=BASE):
        run = Run(cell, method, numbers, base, seed, {}, tested=False)
        result = {"validation": {"accuracy": accuracy}} if accuracy else {"diverged": "NaN"}
        self.line("run", run.settings(), result=result)

    def tests(self, cell, method, accuracies, *, alpha=3.0, right=None, numbers=None):
        """Tested runs, one for each accuracy; none for one that diverged."""
        numbers = METHODS[method].trials[0] if numbers is None else numbers
        self.line("numbers", {"cell": cell, "method": method}, score=0.1, numbers=numbers)
        for seed, accuracy in enumerate(accuracies):
            run = Run(cell, method, numbers, BASE, seed, {}, tested=True)
            result = {"diverged": "NaN"}
            if accuracy is not None:
                own = torch.arange(IMAGES) < round(accuracy * IMAGES) if right is None else right
                result = {
                    "seconds": 2.0,
                    "test": {"accuracy": accuracy, "nll": 0.5, "ece": 0.1, "brier": 0.2},
                    "images": IMAGES,
                    "right": packed(own),
                    "matrices": {f"fc{i}.weight": MATRIX | {"alpha": alpha + i} for i in (1, 2)},
                    "curve": [{"val_nll": 1 / (epoch + 1)} for epoch in range(3)],
                }
            self.line("run", run.settings(), result=result)

    def outcomes(self):
        (self.folder / FILE).write_text("".join(f"{json.dumps(line)}\n" for line in self.lines))
        return Outcomes(RunLog(self.folder))


@pytest.fixture
def story(tmp_path):
    return Story(tmp_path)


def around(middle, spread=0.005, seeds=10, seed=0):
    return (middle + spread * np.random.default_rng(seed).normal(size=seeds)).tolist()


def text_of(outcomes):
    return "\n".join(table.markdown() for table in study_tables(outcomes))


def test_a_run_that_diverged_counts_as_chance(story):
    """A method must not look better for seeds that it lost."""
    story.cell(CELL, conventional="weight_decay", heavy_tailed="lomax")
    story.tests(CELL, "none", [0.8] * 4)
    story.tests(CELL, "weight_decay", [0.8] * 4)
    story.tests(CELL, "lomax", [0.9, 0.9, 0.9, None])
    outcomes = story.outcomes()
    assert list(outcomes.scores(CELL, "lomax", "accuracy").values()) == [0.9, 0.9, 0.9, 0.1]
    assert outcomes.scores(CELL, "lomax", "nll")[3] == pytest.approx(math.log(10))
    d = outcomes.compared(CELL, "lomax", "weight_decay", "accuracy")
    assert (d.mean, d.pairs) == (pytest.approx((3 * 0.1 - 0.7) / 4), 4)
    over_images = outcomes.confirmed()[0].over_images
    assert (over_images.mean, over_images.pairs) == (pytest.approx(d.mean), 4)
    assert "Lomax prior (entrant) (1 diverged: counted as chance)" in text_of(outcomes)


def test_a_method_that_always_diverged_is_there(story):
    story.cell(CELL, conventional="weight_decay", heavy_tailed="lomax")
    for method in ("none", "weight_decay"):
        story.tests(CELL, method, [0.8, 0.82])
    story.tests(CELL, "lomax", [None, None])
    outcomes = story.outcomes()
    assert "(2 diverged: counted as chance)" in text_of(outcomes)
    assert outcomes.compared(CELL, "lomax", "none", "nll").mean == CHANCE["nll"] - 0.5
    assert pictures._mean_curves(outcomes, CELL).keys() == {"none", "weight_decay"}


def test_holm_over_cells_and_over_all(story):
    """By opponent over cells; over all, an opponent who is the entrant too counts once."""
    for place, cell in enumerate(MAIN[:3]):
        story.cell(cell, conventional="weight_decay", heavy_tailed="frechet")
        story.tests(cell, "none", around(0.80))
        story.tests(cell, "weight_decay", around(0.81, seed=1))
        story.tests(cell, "spectral_norm", around(0.81, seed=2 + place))
        story.tests(cell, "frechet", around(0.815, seed=10 + place))
    found = story.outcomes().confirmed()
    assert [(c.opponent, c.second) for c in found[::3]] == [
        ("conventional", "weight_decay"),
        ("weight_decay", "weight_decay"),
        ("spectral_norm", "spectral_norm"),
    ]
    for own in (found[:3], found[3:6], found[6:]):
        assert [c.adjusted for c in own] == holm([c.accuracy.p for c in own])
    once = [*found[:3], *found[6:]]
    assert [c.adjusted_all for c in once] == holm([c.accuracy.p for c in once])
    assert [c.adjusted_all for c in found[3:6]] == [c.adjusted_all for c in found[:3]]


@pytest.mark.parametrize(
    ("first", "seeds", "agree", "verdict"),
    [
        (0.90, 10, True, "ahead"),
        (0.70, 10, True, "behind"),
        (0.80, 10, True, "undecided"),
        (0.90, 3, True, "undecided"),  # no p below 1/4
        (0.81, 10, False, "ahead on these images"),
        (0.79, 10, False, "behind on these images"),
    ],
)
def test_verdicts(story, first, seeds, agree, verdict):
    story.cell(CELL, conventional="dropout", heavy_tailed="frechet")
    story.tests(CELL, "none", [0.8] * seeds)
    spread = around(0, 0.001, seeds)
    story.tests(CELL, "dropout", [0.8] * seeds)
    # Where they do not agree, many images are right with one method only, with every seed.
    right = None if agree else torch.arange(IMAGES) >= IMAGES - round(first * IMAGES)
    story.tests(CELL, "frechet", [first + e for e in spread], right=right)
    [found] = story.outcomes().confirmed()
    assert found.verdict == verdict


def test_trials_of_other_settings_are_not_mixed_in(story):
    """Plain training has the same numbers with every base that it tried."""
    story.cell(CELL)
    story.trial(CELL, "none", {}, 0.7, base=Base(3, 0.2, "cosine"))
    story.trial(CELL, "none", {}, 0.9)
    story.trial(CELL, "none", {}, None, seed=1001)
    outcomes = story.outcomes()
    found = outcomes.validated(CELL, "none", "accuracy", {})
    assert found == pytest.approx((0.9 + CHANCE["accuracy"]) / 2)
    assert outcomes.validated(CELL, "lomax", "accuracy", {"mu": 1e-3}) is None
    assert outcomes.trials(CELL) == (3, 1)


def test_variants_are_compared_at_the_same_strength(story):
    story.cell(CELL)
    story.trial(CELL, "none", {}, 0.9)
    story.trial(CELL, "stable_rank", {"mu": 0.1}, 0.7)
    story.trial(CELL, "stable_rank", {"mu": 0.3}, 0.2)
    story.trial(CELL, "stable_rank_exp", {"mu": 0.1}, 0.8)
    for share in (0.5, 0.8):
        story.trial(CELL, "stable_rank_above", {"mu": 0.1, "share": share}, share)
    outcomes = story.outcomes()
    assert by_strength(outcomes, CELL, "stable_rank") == {
        "plain penalty": {0.1: 0.7, 0.3: 0.2},
        "exponential decay": {0.1: 0.8},
        "lower threshold, share 0.5": {0.1: 0.5},
        "lower threshold, share 0.8": {0.1: 0.8},
    }
    assert "| mlp-kmnist | plain penalty | 90.00 | - | - | - | - | 70.00 | 20.00 |" in text_of(
        outcomes
    )


def test_correlation():
    rng = np.random.default_rng(0)
    points = [[tuple(p)] for p in rng.normal(size=(12, 2))]
    rho, low, high = correlation(points)
    assert rho == pytest.approx(stats.spearmanr(*np.array(points)[:, 0].T).statistic)
    assert low < rho < high
    # Ten runs of each that say the same are not ten times as much.
    again = correlation([10 * group for group in points])
    assert again == pytest.approx((rho, low, high), abs=0.02)
    assert high - low > 0.5  # that of 120 points is 0.25 wide
    assert correlation([[(1.0, 2.0)], [(1.0, 3.0)]]) is None


def test_tables_say_where_a_range_ended(story):
    story.cell(CELL)
    story.tests(CELL, "none", [0.8, 0.8])
    story.tests(CELL, "dropout", [0.8, 0.8], numbers={"dropout": 0.1})
    story.tests(CELL, "lomax", [0.8, 0.8], numbers={"mu": 3e-2})
    story.tests(CELL, "frechet", [0.8, 0.8], numbers={"mu": 1e-2})
    # What a cell tried, not what a method has today.
    for method, key, tried in (
        ("dropout", "dropout", (0.1, 0.9)),
        ("lomax", "mu", (1e-3, 3e-2)),
        ("frechet", "mu", (1e-3, 1e-2, 1e-1)),
    ):
        for value in tried:
            story.trial(CELL, method, {key: value}, 0.8)
    text = text_of(story.outcomes())
    assert "dropout 0.1 (lowest tried)" in text
    assert "mu 0.03 (highest tried)" in text
    assert "| mu 0.01 |" in text
    assert f"{CELL}: {IMAGES} test images" in text


@pytest.mark.parametrize("stage", ["trials", "one seed", "no opponents", "whole"])
def test_a_report_at_any_time(story, stage):
    cells = MAIN[:3] if stage == "whole" else MAIN[:1]
    for cell in cells:
        story.cell(cell, conventional="dropout", heavy_tailed="lomax")
        story.trial(cell, "none", {}, 0.9)
        story.trial(cell, "weighted_alpha", {"mu": 0.1}, 0.8)
        seeds = {"trials": 0, "one seed": 1}.get(stage, 3)
        some = METHODS if stage == "whole" else ("none", "frechet", "dropout")
        for place, method in enumerate(some if seeds else ()):
            accuracies = around(0.8, seeds=seeds, seed=place)
            story.tests(cell, method, accuracies, alpha=2 + 0.1 * place)
    out = io.StringIO()
    outcomes = story.outcomes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(outcomes.log, Console(file=out))
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


def test_the_forest(story):
    """Methods by family from the top, entrants in bold, what is far off by its number."""
    story.cell(CELL, conventional="dropout", heavy_tailed="lomax")
    for method, middle in {
        **dict.fromkeys(("ensemble", "weight_decay", "none", "spectral_norm", "dropout"), 0.8),
        "frechet": 0.3,
        "lomax": 0.81,
    }.items():
        story.tests(CELL, method, around(middle, seed=len(method)))
    figure = pictures._forest(story.outcomes())
    labels = figure.axes[0].get_yticklabels()
    shown = ["none", "spectral_norm", "dropout", "lomax", "frechet", "ensemble"]
    assert [label.get_text() for label in labels] == [METHODS[m].label for m in shown]
    assert [label.get_fontweight() == "bold" for label in labels] == [
        m in ("dropout", "lomax") for m in shown
    ]
    low, high = figure.axes[0].get_xlim()
    assert -10 < low < 0 < high < 10
    assert any(text.get_text().startswith("◂ -5") for text in figure.axes[0].texts)
    pictures.pyplot().close(figure)


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
    assert json.loads(runs[1]["numbers"]) == METHODS["lomax"].trials[0]
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
    write_report(story.outcomes().log, Console(file=out))
    assert "no pictures" in out.getvalue()
    assert (story.folder / "runs.csv").exists()
    assert "![" not in (story.folder / "generalisation.md").read_text()

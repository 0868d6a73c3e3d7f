"""Comparisons of mixtures with ensembles at equal cost, from lines that were made up."""

from __future__ import annotations

import math

import pytest

from benchmarks.study import pictures
from benchmarks.study.cells import Base
from benchmarks.study.log import Log
from benchmarks.study.mixture_tables import (
    Mixture,
    at_equal_cost,
    mixture_tables,
    mixtures,
    one_by_one,
    verdict,
    with_control,
)
from benchmarks.study.outcomes import CONVENTIONAL, Outcomes
from benchmarks.study.runs import Run
from benchmarks.study.studies import STUDIES

BASE = Base(10, 0.05, "cosine")
CELLS = ("mlp-kmnist", "mlp-letter")


def made(folder, *, posterior_seconds=2.0, seeds=6, diverged=()):
    """Plain networks of one second, posteriors whose scores are better by 0.02 in `mlp-kmnist`."""
    log = Log(folder, "mixtures")
    for cell in CELLS:
        entrants = {"conventional": "dropout", "heavy-tailed": "svi_lomax"}
        log.append("entrants", {"cell": cell}, entrants=entrants)
        kinds = {"none": (1.0, 5, 0.0), "dropout": (1.5, 5, 0.0)}
        better = 0.02 if cell == CELLS[0] else 0.0
        kinds["svi_lomax"] = (posterior_seconds, 3, better)
        kinds["svi_exponential"] = (posterior_seconds, 2, 0.0)
        for method, (seconds, count, gain) in kinds.items():
            for seed in range(seeds):
                run = Run(cell, method, {}, BASE, seed, {}, tested=True)
                noise = 0.001 * ((seed * 7 + len(method)) % 5)
                rows = [
                    {
                        "seconds": size * seconds,
                        "test": {
                            "accuracy": 0.8 + gain + noise + 0.01 * size,
                            "nll": 0.5 - gain - noise - 0.01 * size,
                            "brier": 0.3 - gain - noise - 0.01 * size,
                            "ece": 0.05,
                        },
                    }
                    for size in range(1, count + 1)
                ]
                result = {"mixtures": rows, "seconds": rows[-1]["seconds"], "images": 10}
                result |= {"test": rows[-1]["test"]}
                lost = {"diverged": "NaN"} if (cell, method, seed) in diverged else result
                log.append("run", run.settings(), result=lost)
    return Outcomes(log, STUDIES["mixtures"])


def test_the_largest_mixture_that_costs_no_more(tmp_path):
    outcomes = made(tmp_path)
    compared = at_equal_cost(outcomes, "mlp-kmnist", "none")
    assert (compared.first.size, compared.second.size) == (2, 5)  # 4 s and 5 s; three take 6 s
    assert compared.cost == pytest.approx(4 / 5)
    whole = at_equal_cost(outcomes, "mlp-kmnist", CONVENTIONAL)
    assert (whole.first.size, whole.second.method) == (3, "dropout")  # 6 s and 7.5 s
    one = one_by_one(outcomes, "mlp-kmnist", "none")
    assert (one.first.size, one.second.size, one.cost) == (1, 1, 2.0)
    # Differences are paired by seed, and the noise of each method is a permutation of the same.
    assert one.found["accuracy"].mean == pytest.approx(0.02, abs=2e-3)
    assert one.found["nll"].mean == pytest.approx(-0.02, abs=2e-3)
    control = with_control(outcomes, "mlp-kmnist", "svi_exponential")
    assert (control.first.size, control.second.size) == (2, 2)
    assert with_control(outcomes, "mlp-kmnist", "weight_decay") is None


def test_a_posterior_that_costs_more_than_the_ensemble_is_compared_nevertheless(tmp_path):
    compared = at_equal_cost(made(tmp_path, posterior_seconds=9.0), "mlp-kmnist", "none")
    assert (compared.first.size, compared.cost) == (1, pytest.approx(9 / 5))


def test_a_method_with_a_single_member(tmp_path):
    """Its run has no mixtures; it is one member of itself."""
    outcomes = made(tmp_path)
    scored = {"accuracy": 0.9, "nll": 0.4, "brier": 0.2, "ece": 0.01}
    for seed in range(2):
        run = Run("mlp-kmnist", "ivon", {}, BASE, seed, {}, tested=True)
        outcomes.log.append("run", run.settings(), result={"seconds": 3.0, "test": scored})
    outcomes = Outcomes(outcomes.log, STUDIES["mixtures"])
    (single,) = mixtures(outcomes, "mlp-kmnist", "ivon")
    assert (single.label, single.seconds) == ("1 x IVON", 3.0)
    assert single.scores("nll") == {0: 0.4, 1: 0.4}
    rows = [row for table in mixture_tables(outcomes) for row in table.rows if row[0] == "IVON"]
    assert [row[1:3] + row[-1:] for row in rows] == [["1", "2", "3.0"]]


def test_a_run_that_diverged_counts_as_a_guess(tmp_path):
    outcomes = made(tmp_path, diverged={("mlp-letter", "svi_lomax", 2)})
    ours = mixtures(outcomes, "mlp-letter", "svi_lomax")
    assert len(ours) == 3
    assert ours[0].scores("accuracy")[2] == 1 / 26
    assert ours[0].scores("nll")[2] == math.log(26)
    assert ours[2].seconds == 6.0
    assert mixtures(outcomes, "mlp-letter", "weight_decay") == []


def test_verdicts_need_seven_seeds(tmp_path):
    """With six seeds the smallest p-value is 1/32, which Holm doubles over two cells."""
    for seeds, words in (
        (6, {"undecided"}),
        (7, {"ahead", "undecided"}),
        (8, {"ahead", "undecided"}),
    ):
        tables = mixture_tables(made(tmp_path / str(seeds), seeds=seeds))
        titles = [table.title for table in tables]
        assert titles[0] == "One posterior against one: plain training"
        rows = {row[0]: row for row in tables[0].rows}
        assert {rows["mlp-kmnist"][i] for i in (6, 9, 12)} | {"undecided"} == words
        assert rows["mlp-letter"][6] == "undecided"
        assert not any("weight decay" in title for title in titles)  # nothing of it was tested
    d = one_by_one(made(tmp_path / "8"), "mlp-kmnist", "none").found
    assert verdict("accuracy", d["accuracy"], 0.01) == "ahead"
    assert verdict("accuracy", d["nll"], 0.01) == "behind"
    assert verdict("nll", d["nll"], 0.01) == "ahead"
    assert verdict("nll", d["nll"], 0.05) == "undecided"


def test_the_picture_has_a_point_for_each_mixture(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures, "save", lambda figure, path: drawn.append(figure) or path)
    outcomes = made(tmp_path, seeds=2)
    assert pictures.draw_mixtures(outcomes, tmp_path) == [tmp_path / "mixtures.png"]
    axes = drawn[0].axes
    assert [ax.get_title() for ax in axes[:3]] == ["Brier score", "NLL", "error rate"]
    lines = axes[2].get_lines()
    assert [len(line.get_xdata()) for line in lines] == [5, 5, 3, 2]
    first = Mixture(outcomes, "mlp-kmnist", "none", 1)
    assert lines[0].get_xdata()[0] == first.seconds == 1.0
    assert lines[0].get_ydata()[0] == pytest.approx(1 - sum(first.scores("accuracy").values()) / 2)
    pictures.pyplot().close(drawn[0])

"""What runs say: chance for those that diverged, verdicts, and trials."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.common.paired import holm
from benchmarks.study import pictures
from benchmarks.study.cells import Base
from benchmarks.study.generalisation_tables import generalisation_tables
from benchmarks.study.outcomes import chance
from benchmarks.study.studies import STUDIES

CELL = "mlp-kmnist"
IMAGES = 400
MAIN = STUDIES["generalisation"].main


def text_of(outcomes):
    return "\n".join(table.markdown() for table in generalisation_tables(outcomes))


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
    assert outcomes.compared(CELL, "lomax", "none", "nll").mean == chance(10)["nll"] - 0.5
    assert pictures._mean_curves(outcomes, CELL).keys() == {"none", "weight_decay"}


def test_holm_over_cells_and_over_all(story, around):
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
def test_verdicts(story, first, seeds, agree, verdict, around):
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
    assert found == pytest.approx((0.9 + chance(10)["accuracy"]) / 2)
    assert outcomes.validated(CELL, "lomax", "accuracy", {"mu": 1e-3}) is None
    trials = outcomes.trials(CELL)
    assert (len(trials), sum("diverged" in result for result in trials)) == (3, 1)
    assert outcomes.trials(CELL, "lomax") == []

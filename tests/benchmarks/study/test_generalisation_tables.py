"""The two claims, and what tables of the study of generalisation say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.study.generalisation_tables import (
    by_strength,
    correlation,
    generalisation_tables,
)

CELL = "mlp-kmnist"
IMAGES = 400


def text_of(outcomes):
    return "\n".join(table.markdown() for table in generalisation_tables(outcomes))


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

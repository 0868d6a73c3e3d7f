"""Paired comparisons against SciPy, and their coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.common.paired import (
    difference,
    difference_over_images,
    holm,
    student_difference,
)


def test_the_sign_flip_test_is_scipys():
    rng = np.random.default_rng(0)
    for n in (3, 8, 10):
        d = rng.normal(0.5, 1, n)
        expected = stats.permutation_test(
            (d,), lambda x: x.mean(), permutation_type="samples", n_resamples=np.inf
        )
        assert difference(d, np.zeros(n)).p == pytest.approx(expected.pvalue, abs=1e-12)


def test_many_pairs_are_tested_by_chance():
    d = np.random.default_rng(1).normal(0.4, 1, 40)
    assert difference(d, np.zeros(40)).p == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=0.01)


def test_equal_values():
    assert difference([1.0, 2.0], [1.0, 2.0]) == (0.0, 0.0, 0.0, 1.0, 2)


def test_equal_images():
    right = [np.ones(5, bool)] * 3
    assert difference_over_images(right, right) == (0.0, 0.0, 0.0, 1.0, 3)


def test_one_pair():
    with pytest.raises(ValueError, match="1 pairs"):
        difference([1.0], [2.0])


@pytest.mark.parametrize("pairs", [3, 10])
def test_coverage(pairs):
    """400 intervals; without `t / z` 0.82 of them cover with three pairs, 0.90 with ten."""
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(400):
        d = rng.normal(1, 1, pairs)
        found = difference(d, np.zeros(pairs))
        inside += found.low <= 1 <= found.high
    assert 0.92 <= inside / 400 <= 0.97


def test_coverage_over_images():
    """Seeds and images drawn anew each time, most of the variance in neither of them alone."""
    rng = np.random.default_rng(4)
    found = []
    for _ in range(300):
        ease, gain = rng.normal(1.5, 1, 300), rng.normal(0, 0.4, 300)
        noise = rng.normal(0, 0.6, (2, 10, 300))
        first, second = ease + gain + noise[0] > 0, ease - gain + noise[1] > 0
        found.append(difference_over_images(list(first), list(second)))
    assert 0.92 <= np.mean([d.low <= 0 <= d.high for d in found]) <= 0.97
    width = np.mean([d.high - d.low for d in found])
    assert width == pytest.approx(2 * 1.96 * np.std([d.mean for d in found]), rel=0.1)


def test_both_ways_of_chance():
    """Over images too the interval is as wide as the binomial spread where seeds agree."""
    rng = np.random.default_rng(3)
    first, second = rng.random(2000) < 0.9, rng.random(2000) < 0.85
    found = difference_over_images([first] * 10, [second] * 10)
    d = first.astype(float) - second
    width = 2 * 1.96 * d.std() / np.sqrt(2000)
    assert found.high - found.low == pytest.approx(width, rel=0.05)
    assert found.mean == pytest.approx(d.mean())


def test_the_spread_of_seeds_counts_where_images_agree():
    first = [np.ones(500, bool)] * 5 + [np.zeros(500, bool)] * 5
    second = [np.zeros(500, bool)] * 10
    found = difference_over_images(first, second)
    width = 2 * stats.t.ppf(0.975, 9) * np.std([1, 0] * 5, ddof=1) / np.sqrt(10)
    assert found.high - found.low == pytest.approx(width, rel=0.01)


def test_holm():
    # By hand: 3 x 0.01, 2 x 0.02, and no smaller than what is before it.
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_students_interval():
    a, b = [0.9, 0.8, 0.85, 0.95], [0.89, 0.82, 0.84, 0.9]
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    found = student_difference(a, b)
    assert (found.mean, found.low, found.high) == pytest.approx(
        (0.0125, interval.low, interval.high)
    )
    assert found.pairs == 4
    single = student_difference([1.0], [0.5])
    assert (single.mean, single.pairs) == (0.5, 1)
    assert np.isnan([single.low, single.high]).all()

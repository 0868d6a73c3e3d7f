"""Hill's estimate over k."""

import numpy as np
import pytest
from scipy import stats

import bayes_htr as htr
from tests.reference.tail_cases import sample


def test_each_point_by_its_own_sum():
    values = sample("pareto 2.5, 60")
    curve = htr.hill_curve(np.random.default_rng(0).permutation(values), level=0.9)
    top = np.sort(values)[::-1]
    np.testing.assert_array_equal(curve.k, np.arange(1, 60))
    for k in (1, 2, 17, 59):
        S = np.log(top[:k] / top[k]).sum()
        assert curve.alpha[k - 1] == pytest.approx(1 + k / S, rel=1e-10)
        assert curve.threshold[k - 1] == pytest.approx(top[k], rel=1e-12)
        ends = 1 + stats.gamma(k, scale=1 / S).ppf([0.05, 0.95])
        assert (curve.low[k - 1], curve.high[k - 1]) == pytest.approx(tuple(ends), rel=1e-9)


def test_thresholds_equal_to_the_largest_are_left_out():
    curve = htr.hill_curve([1.0, 2.0, 4.0, 8.0, 8.0, 8.0])
    np.testing.assert_array_equal(curve.k, [3, 4, 5])
    assert np.isfinite(curve.alpha).all()


def test_level():
    with pytest.raises(ValueError, match="level=2"):
        htr.hill_curve([1.0, 2.0, 3.0, 5.0, 8.0], level=2)

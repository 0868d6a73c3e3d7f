"""The power law between two ends, and the fit of its upper end."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate

import bayes_htr as htr
from bayes_htr.distributions import TruncatedPowerlaw
from bayes_htr.tails.alternatives import (
    fisher_information,
    log_normaliser,
    truncated_cdf,
    truncated_quantile,
    truncated_rate,
)

RATES = [-40.0, -3.0, -1e-3, -1e-13, 0.0, 1e-13, 1e-3, 0.5, 3.0, 40.0]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("span", [0.3, 2.0, 12.0])
def test_against_the_distribution(rate, span):
    law = TruncatedPowerlaw(*torch.tensor([1 + rate, 1.0, math.exp(span)], dtype=torch.float64))
    t = np.linspace(0, span, 41)
    expected = law.cdf(torch.as_tensor(np.exp(t)).clamp(max=law.xmax)).numpy()
    np.testing.assert_allclose(truncated_cdf(rate, t, span), expected, rtol=1e-8, atol=1e-12)
    q = np.linspace(0, 1, 21)
    np.testing.assert_allclose(
        truncated_cdf(rate, truncated_quantile(rate, q, span), span), q, atol=1e-10
    )


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("span", [0.3, 2.0, 12.0])
def test_moments(rate, span):
    peak = max(0.0, -rate * span)

    def moment(power):
        def summand(t):
            return t**power * math.exp(-rate * t - peak)

        ends = np.linspace(0, span, 60)
        parts = itertools.pairwise(ends)
        return sum(integrate.quad(summand, *part)[0] for part in parts)

    total, mean = moment(0), moment(1) / moment(0)
    assert float(log_normaliser(rate, span)) == pytest.approx(
        peak + math.log(total), rel=1e-8, abs=1e-10
    )
    assert float(truncated_rate(mean, span)) == pytest.approx(rate, rel=1e-6, abs=1e-8)
    variance = moment(2) / total - mean**2
    assert float(fisher_information(rate, span)) == pytest.approx(variance, rel=1e-5)


def test_upper_end_is_found():
    random = np.random.default_rng(0)
    values = np.exp(truncated_quantile(1.5, random.random(4000), math.log(20.0)))
    fit = htr.fit_powerlaw(values, xmin=1.0, xmax="largest")
    assert fit.xmax == values.max()
    assert fit.alpha == pytest.approx(2.5, abs=4 * fit.sigma)
    untruncated = htr.fit_powerlaw(values, xmin=1.0)
    assert untruncated.alpha > 2.5 + 3 * untruncated.sigma
    low, high = fit.interval
    assert high - low == pytest.approx(2 * 1.96 * fit.sigma, rel=0.02)


def test_the_largest_value_sets_the_end_and_says_nothing_of_alpha():
    values = np.exp(truncated_quantile(1.5, np.random.default_rng(5).random(40), 2.0))
    fitted = htr.fit_powerlaw(values, xmin=1.0, xmax="largest")
    end = float(values.max())
    given = htr.fit_powerlaw(np.sort(values)[:-1], xmin=1.0, xmax=end)
    assert fitted.interval == pytest.approx(given.interval, rel=1e-9)
    assert fitted.alpha < given.alpha


def test_values_above_xmax_are_left_out_and_counted():
    values = np.exp(np.random.default_rng(1).exponential(size=2000))
    fit = htr.fit_powerlaw(values, xmin=1.0, xmax=5.0)
    assert fit.above == int((values > 5).sum()) > 0
    assert fit.n + fit.above == 2000
    assert fit.alpha == pytest.approx(2.0, abs=4 * fit.sigma)  # a tail cut off is the cut-off law


def test_bootstrap_and_interval_with_an_upper_end():
    random = np.random.default_rng(2)
    values = np.exp(truncated_quantile(1.5, random.random(300), 3.0))
    for options in ({"xmax": "largest"}, {"xmax": math.exp(3.0)}, {"xmax": "largest", "xmin": 1.0}):
        fit = htr.fit_powerlaw(values, bootstrap=199, **options)
        assert 0.02 < fit.p_value <= 1
        low, high = fit.searched_interval or fit.interval
        assert low < 2.5 < high


@pytest.mark.slow
def test_coverage_with_an_upper_end():
    random = np.random.default_rng(3)
    for xmax in ("largest", math.exp(2.0)):
        held = []
        for _ in range(2000):
            values = np.exp(truncated_quantile(1.5, random.random(50), 2.0))
            low, high = htr.fit_powerlaw(values, xmin=1.0, xmax=xmax).interval
            held.append(low < 2.5 < high)
        assert 0.93 <= np.mean(held) <= 0.97

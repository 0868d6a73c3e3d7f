"""The pruned search finds what the direct one finds; the law with an upper end."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate

import bayes_htr as htr
from bayes_htr.distributions import TruncatedPowerlaw
from bayes_htr.tails.search import (
    Rule,
    fisher_information,
    log_normaliser,
    search_xmin,
    truncated_cdf,
    truncated_quantile,
    truncated_rate,
)
from tests.reference.powerlaw_search import search
from tests.reference.tail_cases import RECIPES, sample

LOST = {"none": 0, "n-1": 1, "n-2": 2}


def found(values, rule, log_xmax=None):
    logs = np.log(np.sort(values))
    tails = search_xmin(logs[None], rule, log_xmax)
    return 1 + tails.rate[0], np.exp(logs[tails.start[0]]), tails.D[0]


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("ks", ["lower", "two-sided"])
@pytest.mark.parametrize(("min_tail", "correction"), [(2, "none"), (8, "n-1"), (3, "n-2")])
def test_equals_the_direct_search(name, ks, min_tail, correction):
    values = sample(name)
    direct = search(values, ks, min_tail, LOST[correction])
    pruned = found(values, Rule(ks, min_tail, correction))
    np.testing.assert_allclose(pruned, direct, rtol=1e-10)


@pytest.mark.parametrize("ks", ["lower", "two-sided"])
def test_many_samples_at_once_are_as_each_alone(ks):
    random = np.random.default_rng(0)
    logs = np.sort(random.exponential(random.uniform(0.2, 2, (60, 1)), (60, 80)) ** 1.3, axis=1)
    tails = search_xmin(logs, Rule(ks))
    for row, start, rate, D in zip(logs, tails.start, tails.rate, tails.D, strict=True):
        direct = search(np.exp(row), ks)
        np.testing.assert_allclose((1 + rate, np.exp(row[start]), D), direct, rtol=1e-10)


def test_few_candidates_are_measured_in_full():
    random = np.random.default_rng(1)
    for scale in (1.0, random.uniform(0.5, 2, 4096)):
        logs = np.sort(random.exponential(scale, 4096))[None]
        assert search_xmin(logs, Rule()).computed <= 20


def test_a_tail_holds_all_of_its_equal_values():
    random = np.random.default_rng(2)
    values = np.round(1 + random.pareto(1.5, 300), 1)
    assert len(np.unique(values)) < 100
    for ks in ("lower", "two-sided"):
        direct = search(values, ks)
        np.testing.assert_allclose(found(values, Rule(ks)), direct, rtol=1e-10)


@pytest.mark.parametrize("values", [np.exp2(np.arange(12.0)), np.arange(1.0, 30), [1.0, 2.0, 5.0]])
def test_values_without_noise(values):
    values = np.asarray(values)
    np.testing.assert_allclose(found(values, Rule()), search(values), rtol=1e-10)


def test_scale_does_not_matter_even_near_overflow():
    values = sample("pareto 2.5, 500")
    alpha, xmin, D = found(values, Rule())
    for factor in (1e-300, 1e300):
        there = found(values * factor, Rule())
        np.testing.assert_allclose(there, (alpha, xmin * factor, D), rtol=1e-9)


def test_with_an_upper_end():
    """Against one maximisation of the likelihood per candidate."""
    from scipy.optimize import minimize_scalar

    values = np.sort(sample("pareto 2.5, 60"))
    xmax = 1.1 * values[-1]
    best = (np.nan, np.nan, np.inf)
    for xmin in values[:-1]:
        t, L = np.log(values[values >= xmin] / xmin), np.log(xmax / xmin)

        def loss(a, t=t, L=L):
            return a * t.mean() + np.log(-np.expm1(-a * L) / a)

        a = minimize_scalar(loss, bracket=(0.9 / t.mean(), 1 / t.mean()), tol=1e-12).x
        law = np.expm1(-a * t) / np.expm1(-a * L)
        D = np.abs(law - np.arange(len(t)) / len(t)).max()
        if best[2] > D:
            best = (1 + a, xmin, D)
    there = found(values, Rule(), np.array([np.log(xmax)]))
    np.testing.assert_allclose(there, best, rtol=1e-6)


def test_no_tail_to_fit():
    tails = search_xmin(np.zeros((1, 5)), Rule())
    assert np.isnan(tails.rate[0])
    assert np.isinf(tails.D[0])


# The power law between two ends, and the fit of its upper end


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

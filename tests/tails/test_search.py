"""The pruned search finds what the direct one finds."""

import numpy as np
import pytest

from bayes_htr.tails.search import Rule, search_xmin
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

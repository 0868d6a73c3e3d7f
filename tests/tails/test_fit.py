"""`htr.fit_powerlaw`: what it returns, of what it is given."""

import json
import math

import numpy as np
import pytest
import torch

import bayes_htr as htr
from tests.reference.tail_cases import sample


def test_any_kind_of_values():
    values = sample("pareto 2.5, 60")
    expected = htr.fit_powerlaw(values).to_dict()
    shuffled = np.random.default_rng(0).permutation(values)
    for given in (list(values), torch.tensor(values), torch.tensor(values, requires_grad=True)):
        assert htr.fit_powerlaw(given).to_dict() == expected
    assert htr.fit_powerlaw(shuffled).to_dict() == expected
    half = torch.tensor(values).bfloat16()
    assert htr.fit_powerlaw(half).to_dict() == htr.fit_powerlaw(half.double()).to_dict()
    assert htr.fit_powerlaw(np.array([1, 2, 3, 5, 8, 13])).n == 6


def test_values_are_left_as_they_were():
    values = np.random.default_rng(0).permutation(sample("pareto 2.5, 60"))
    before = values.copy()
    state = np.random.get_state()[1].copy(), torch.get_rng_state()
    htr.fit_powerlaw(values, bootstrap=20)
    np.testing.assert_array_equal(values, before)
    np.testing.assert_array_equal(np.random.get_state()[1], state[0])
    assert torch.equal(torch.get_rng_state(), state[1])


def test_zeros_are_left_out_and_counted():
    values = sample("pareto 2.5, 60")
    fit = htr.fit_powerlaw(np.concatenate([values, np.zeros(7)]))
    assert fit.zeros == 7
    assert fit.to_dict() == {**htr.fit_powerlaw(values).to_dict(), "zeros": 7}


def test_attributes_are_floats():
    fit = htr.fit_powerlaw(sample("pareto 2.5, 60"), bootstrap=50)
    for name in ("alpha", "xmin", "D", "sigma", "p_value", "clauset_p_value"):
        assert type(getattr(fit, name)) is float, name
    for pair in (fit.interval, fit.searched_interval):
        assert [type(end) for end in pair] == [float, float]
    assert type(fit.n) is type(fit.n_tail) is int
    assert json.loads(json.dumps(fit.to_dict())) == fit.to_dict()
    assert fit.to_dict()["bootstrap"] == 50


def test_without_bootstrap_nothing_is_said_of_the_search():
    fit = htr.fit_powerlaw(sample("pareto 2.5, 60"))
    assert fit.searched_interval is None
    assert fit.p_value is None
    assert "with xmin taken as known" in repr(fit)
    assert fit.xmin_frequencies is None


def test_given_xmin():
    values = sample("pareto 2.5, 60")
    fit = htr.fit_powerlaw(values, xmin=1.5, bootstrap=50)
    assert fit.xmin == 1.5
    assert fit.n_tail == (values >= 1.5).sum() == len(fit.tail)
    assert fit.alpha == pytest.approx(1 + fit.n_tail / np.log(fit.tail / 1.5).sum(), rel=1e-12)
    assert fit.searched_interval is None
    assert not fit.searched
    at_a_value = htr.fit_powerlaw(values, xmin=float(np.sort(values)[20]))
    assert at_a_value.n_tail == 40


@pytest.mark.parametrize(("correction", "known"), [("n-1", True), ("n-2", False)])
def test_corrections_are_unbiased(correction, known):
    random = np.random.default_rng(0)
    rates, plain = [], []
    for _ in range(1200):
        values = np.exp(random.exponential(1 / 1.5, 12))
        xmin = 1.0 if known else float(values.min())
        rates.append(htr.fit_powerlaw(values, xmin=xmin, correction=correction, min_tail=3).alpha)
        plain.append(htr.fit_powerlaw(values, xmin=xmin).alpha)
    error = np.std(rates) / math.sqrt(len(rates))
    assert np.mean(rates) == pytest.approx(2.5, abs=4 * error)
    assert np.mean(plain) > 2.5 + 4 * error


def test_two_sided_distance_is_no_smaller():
    values = sample("lognormal, 400")
    lower = htr.fit_powerlaw(values, xmin=1.0)
    both = htr.fit_powerlaw(values, xmin=1.0, ks="two-sided")
    assert lower.D <= both.D <= lower.D + 1 / lower.n_tail
    from scipy import stats

    expected = stats.kstest(both.tail, stats.pareto(both.alpha - 1).cdf).statistic
    assert pytest.approx(expected, rel=1e-10) == both.D


def test_repr_says_what_counts():
    text = repr(htr.fit_powerlaw(sample("pareto 2.5, 500"), bootstrap=99))
    for word in ("alpha=2.51", "95 %", "xmin=", "n_tail=", "of 500", "p_value="):
        assert word in text


def test_hill_of_the_spectrum_is_alpha():
    """Where xmin is a value, alpha is Hill's estimate but for the threshold among its own."""
    values = sample("pareto 2.5, 500")
    fit = htr.fit_powerlaw(values)
    k = fit.n_tail - 1
    expected = 1 + (fit.alpha - 1) * k / fit.n_tail
    curve = htr.hill_curve(values)
    assert curve.alpha[k - 1] == pytest.approx(expected, rel=1e-10)
    assert float(htr.hill(values, k / 500)) == pytest.approx(expected, rel=1e-5)

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
    assert htr.fit_powerlaw(np.array([1, 2, 3, 5, 8, 13]), discrete=False).n == 6


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


# Errors name what is bad, its value, and what to do

GOOD = [1.0, 2.0, 3.0, 5.0, 8.0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 2.0, float("nan"), 3.0], "value 2 of 4 is nan"),
        ([1.0, float("inf"), 3.0], "value 1 of 3 is inf"),
        ([1.0, 2.0, -0.5, 3.0], "value 2 of 4 is -0.5.*squared singular values"),
        ([], "here are 0"),
        ([1.0, 2.0], "here are 2"),
        ([0.0, 0.0, 0.0, 1.0], "3 zeros"),
        ([2.0, 2.0, 2.0, 2.0], "not all equal"),
        (np.ones((3, 3)), r"shape \(3, 3\)"),
        (torch.tensor(3.0), r"shape \(\)"),
        (np.array([1j, 2, 3, 4]), "complex128"),
        (np.array([True, False, True]), "bool"),
        (["a", "b", "c"], "real numbers"),
    ],
)
@pytest.mark.parametrize("function", [htr.fit_powerlaw, htr.hill_curve])
def test_bad_values(function, values, message):
    with pytest.raises(htr.SpectrumError, match=message):
        function(values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"xmin": 0.0}, "xmin=0.0"),
        ({"xmin": -1.0}, "xmin=-1.0"),
        ({"xmin": float("nan")}, "xmin=nan"),
        ({"xmax": "top"}, "xmax='top'"),
        ({"xmin": 3.0, "xmax": 2.0}, "xmax=2.0 must be above xmin=3.0"),
        ({"xmax": float("inf")}, "xmax=inf"),
        ({"ks": "upper"}, "ks='upper'"),
        ({"xmin": "auto"}, "xmin='auto' must be a finite number"),
        ({"bootstrap": 10.5}, "bootstrap=10.5 must be a whole number"),
        ({"bootstrap": True}, "bootstrap=True"),
        ({"seed": -3}, "seed=-3 must be a whole number"),
        ({"seed": "a"}, "seed='a'"),
        ({"min_tail": 3.5}, "min_tail=3.5"),
        ({"level": "high"}, "level='high'"),
        ({"xmax": [3]}, r"xmax=\[3\]"),
        ({"min_tail": 1}, "min_tail=1"),
        ({"min_tail": 2, "correction": "n-2"}, "at least 3"),
        ({"correction": "best"}, "correction='best'"),
        ({"correction": "n-1", "xmax": 9.0}, "upper end"),
        ({"prior": "flat"}, "prior='flat'"),
        ({"prior": (-1.0, 1.0)}, "neither negative"),
        ({"prior": (0.0, 1.0), "xmax": "largest"}, "shape above 0"),
        ({"level": 95}, "level=95"),
        ({"bootstrap": -1}, "bootstrap=-1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        htr.fit_powerlaw(GOOD, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"xmin": 9.0}, "0 of 5 values are at least xmin=9.*lower xmin"),
        ({"xmin": 8.0}, "1 of 5 values"),
        ({"xmin": 5.0, "xmax": "largest"}, "2 of 5 values.*below its upper end"),
        ({"min_tail": 6}, "min_tail=6"),
    ],
)
def test_options_that_these_values_do_not_allow(options, message):
    with pytest.raises(htr.SpectrumError, match=message):
        htr.fit_powerlaw(GOOD, **options)


def test_comparisons_that_there_are_not():
    fit = htr.fit_powerlaw(GOOD, discrete=False)
    with pytest.raises(ValueError, match=r"'gamma' is no alternative.*lognormal"):
        fit.compare("gamma")
    with pytest.raises(ValueError, match="fit without xmax"):
        htr.fit_powerlaw(GOOD, xmax="largest", discrete=False).compare("lognormal")


@pytest.mark.filterwarnings("error")
def test_small_and_tied_samples_are_fitted_or_refused_with_a_reason():
    random = np.random.default_rng(0)
    kinds = [
        lambda n: random.integers(1, 5, n),
        lambda n: np.round(1 + random.pareto(1.0, n), 1),
        lambda n: random.lognormal(size=n) * 10.0 ** random.integers(-200, 200),
        lambda n: 2.0 ** random.integers(0, 6, n),
    ]
    fitted = 0
    for trial in range(160):
        values = kinds[trial % 4](int(random.integers(3, 14)))
        upper = {"xmax": "largest"} if random.random() < 0.4 else {"ks": "two-sided"}
        lower = {"xmin": float(random.choice(values))} if random.random() < 0.2 else {}
        try:
            fit = htr.fit_powerlaw(values, bootstrap=9, discrete=False, **upper, **lower)
        except htr.SpectrumError:
            continue
        fitted += 1
        ends = (*fit.interval, *(fit.searched_interval or ()))
        assert np.isfinite([fit.alpha, fit.D, fit.sigma, *ends]).all(), (values, upper, lower)
    assert fitted > 130

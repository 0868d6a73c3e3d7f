"""Errors name what is bad, its value, and what to do."""

import numpy as np
import pytest
import torch

import bayes_htr as htr

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
def test_values(function, values, message):
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
def test_options(options, message):
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


def test_comparison():
    fit = htr.fit_powerlaw(GOOD)
    with pytest.raises(ValueError, match=r"'gamma' is no alternative.*lognormal"):
        fit.compare("gamma")
    with pytest.raises(ValueError, match="fit without xmax"):
        htr.fit_powerlaw(GOOD, xmax="largest").compare("lognormal")


def test_hill_curve_level():
    with pytest.raises(ValueError, match="level=2"):
        htr.hill_curve(GOOD, level=2)


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
            fit = htr.fit_powerlaw(values, bootstrap=9, **upper, **lower)
        except htr.SpectrumError:
            continue
        fitted += 1
        ends = (*fit.interval, *(fit.searched_interval or ()))
        assert np.isfinite([fit.alpha, fit.D, fit.sigma, *ends]).all(), (values, upper, lower)
    assert fitted > 130

"""The power law of whole numbers, against exact sums and published fits."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, special, stats

import bayes_htr as htr
from bayes_htr.tails.discrete import Counts, draw, estimate, log_moments, log_zeta, survival

PUBLISHED = json.loads(
    (Path(__file__).parents[1] / "reference" / "published_counts.json").read_text()
)
"""How often each value occurs in two data sets of Clauset, Shalizi & Newman (2009), table 6.1:
words of Moby Dick, and deaths in terrorist attacks. Both ship with the package powerlaw (MIT)."""


def published(name):
    return np.repeat(PUBLISHED[name]["values"], PUBLISHED[name]["counts"])


@pytest.mark.parametrize(
    ("name", "n", "alpha", "error", "xmin", "n_tail"),
    [("words", 18855, 1.95, 0.02, 7, 2958), ("terrorism", 9101, 2.4, 0.2, 12, 547)],
)
def test_published_fits(name, n, alpha, error, xmin, n_tail):
    fit = htr.fit_powerlaw(published(name), discrete=True)
    assert (fit.n, fit.xmin, fit.n_tail) == (n, xmin, n_tail)
    assert fit.alpha == pytest.approx(alpha, abs=0.05)
    assert fit.sigma < error
    low, high = fit.interval
    assert low < fit.alpha < high and high - low == pytest.approx(2 * 1.96 * fit.sigma, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "p_value"), [("words", 0.49), ("terrorism", 0.68)])
def test_published_p_values(name, p_value):
    fit = htr.fit_powerlaw(published(name), discrete=True, bootstrap=200)
    # Theirs rest on alpha to two digits, which makes D larger in the sample and in replicates.
    assert fit.clauset_p_value == pytest.approx(p_value, abs=0.25)
    low, high = fit.searched_interval
    assert low < fit.alpha < high


@pytest.mark.parametrize("alpha", [1.5, 2.5, 4.0])
@pytest.mark.parametrize("xmin", [1, 3, 40])
def test_the_estimate_has_the_largest_likelihood(alpha, xmin):
    random = np.random.default_rng(0)
    values = draw(alpha, xmin, 3000, random)
    fit = htr.fit_powerlaw(values, xmin=xmin, discrete=True)
    assert fit.alpha == pytest.approx(alpha, abs=4 * fit.sigma)

    def loss(a):
        return len(values) * math.log(special.zeta(a, xmin)) + a * np.log(values).sum()

    found = optimize.minimize_scalar(loss, (1.1, alpha, 9), tol=1e-12)
    assert fit.alpha == pytest.approx(found.x, rel=1e-6)
    eps = 1e-3
    information = (loss(fit.alpha + eps) - 2 * loss(fit.alpha) + loss(fit.alpha - eps)) / eps**2
    assert fit.sigma == pytest.approx(information**-0.5, rel=1e-4)


def test_zipf_of_scipy_and_its_warning():
    values = np.random.default_rng(0).zipf(2.5, 5000)
    assert htr.fit_powerlaw(values, xmin=1, discrete=True).alpha == pytest.approx(2.5, abs=0.06)
    with pytest.warns(UserWarning, match="all 5000 values are whole numbers"):
        wrong = htr.fit_powerlaw(values, xmin=1)
    assert wrong.alpha > 4


@pytest.mark.filterwarnings("error")
def test_no_warning_where_the_law_of_real_numbers_is_meant():
    values = np.random.default_rng(0).zipf(2.5, 500)
    htr.fit_powerlaw(values, discrete=False)
    htr.fit_powerlaw(values * 1000.0)
    htr.fit_powerlaw(values + 0.5)
    htr.fit_powerlaw(values, discrete=True)
    htr.tails.fit_tail(values.astype(float))
    htr.hill_curve(values)


def test_the_distance_is_the_largest_at_any_whole_number():
    values = np.array([2, 2, 2, 3, 3, 5, 9, 9, 30, 31])
    for xmin in (1, 2, 3):
        fit = htr.fit_powerlaw(values, xmin=xmin, discrete=True)
        tail = values[values >= xmin]
        every = np.arange(xmin, 400)
        law = 1 - special.zeta(fit.alpha, every + 1) / special.zeta(fit.alpha, xmin)
        sample = (tail[None] <= every[:, None]).mean(axis=1)
        assert pytest.approx(np.abs(law - sample).max(), rel=1e-9) == fit.D


def test_the_search_finds_the_smallest_distance():
    random = np.random.default_rng(1)
    for n in (20, 100, 400):
        values = np.concatenate([random.integers(1, 9, n), random.zipf(2.2, n) + 4])
        counts = Counts.of(values)
        start, alpha, D = counts.search(2)
        alphas = counts.rates()
        every = [
            counts.distance(i, a) if math.isfinite(a) and counts.sizes[i] >= 2 else math.inf
            for i, a in enumerate(alphas)
        ]
        assert (start, D) == (int(np.argmin(every)), min(every))
        assert alpha == alphas[start]


def test_draws_have_the_law():
    random = np.random.default_rng(0)
    for alpha, xmin in ((1.6, 1), (2.5, 1), (3.0, 20)):
        values = draw(alpha, xmin, 20_000, random)
        edges = np.unique(np.floor(xmin * np.geomspace(1, 200, 12)))
        expected = -np.diff(np.append(survival(alpha, edges, xmin), 0.0))
        observed = np.histogram(values, np.append(edges, np.inf))[0]
        kept = expected * 20_000 > 5
        statistic = ((observed - expected * 20_000) ** 2 / (expected * 20_000))[kept].sum()
        assert stats.chi2.sf(statistic, kept.sum() - 1) > 1e-3


def test_zeta_and_its_moments():
    mpmath = pytest.importorskip("mpmath")
    for s, q in ((1.05, 1), (2.5, 1), (2.5, 7), (30.0, 1), (99.0, 3), (1.5, 1e6), (50.0, 40)):

        def log_z(x, q=q):
            return mpmath.log(mpmath.zeta(x, q)) + x * mpmath.log(q)

        value, mean, variance = (float(part) for part in log_moments(s, q))
        assert value == pytest.approx(float(log_z(s)), rel=1e-9, abs=1e-12)
        assert mean == pytest.approx(-float(mpmath.diff(log_z, s)), rel=1e-9)
        assert variance == pytest.approx(float(mpmath.diff(log_z, s, 2)), rel=1e-6)
        assert float(log_zeta(s, q)) == pytest.approx(float(log_z(s)), rel=1e-9, abs=1e-11)


def test_estimates_at_the_ends():
    assert estimate(0.0, 1.0) == np.inf
    assert estimate(1e-40, 1.0) == np.inf
    assert estimate(1e-20, 1.0) == pytest.approx(-math.log2(1e-20 / math.log(2)), rel=1e-3)
    assert estimate(1e6, 1.0) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_intervals_cover_and_p_values_are_uniform():
    random = np.random.default_rng(0)
    covered, p_values = [], []
    for i in range(150):
        values = draw(2.5, 2, 60, random)
        fit = htr.fit_powerlaw(values, xmin=2, discrete=True, bootstrap=49, seed=i)
        covered.append(fit.interval[0] < 2.5 < fit.interval[1])
        p_values.append(fit.p_value)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.04)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_a_searched_fit_with_its_bootstrap():
    values = np.random.default_rng(2).zipf(2.5, 150)
    fit = htr.fit_powerlaw(values, discrete=True, bootstrap=30, seed=1)
    assert fit.searched_interval[0] < 2.5 < fit.searched_interval[1]
    assert sum(fit.xmin_frequencies.values()) == pytest.approx(1)
    assert set(fit.xmin_frequencies) <= set(values.astype(float))
    assert 0 < fit.p_value <= 1 and fit.to_dict()["discrete"] is True
    again = htr.fit_powerlaw(values, discrete=True, bootstrap=30, seed=1)
    assert again.to_dict() == fit.to_dict() and "discrete" in repr(fit)
    rejected = htr.fit_powerlaw(np.arange(1, 80), discrete=True, xmin=1, bootstrap=50)
    assert rejected.p_value < 0.05


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"xmin": 1.5}, ValueError, "xmin=1.5 must be a whole number"),
        ({"xmax": 100.0}, ValueError, "xmax=100.0"),
        ({"prior": (1.0, 1.0)}, ValueError, "prior="),
        ({"correction": "n-1"}, ValueError, "True with correction='n-1': the law"),
        ({"ks": "two-sided"}, ValueError, "True with ks='two-sided': the law"),
        ({"xmin": 1000}, htr.SpectrumError, "xmin=1000"),
        ({"xmin": 9}, htr.SpectrumError, "no tail"),
    ],
)
def test_what_whole_numbers_cannot_have(options, error, words):
    with pytest.raises(error, match=words):
        htr.fit_powerlaw([1, 1, 2, 3, 9, 9, 9], discrete=True, **options)


def test_values_that_are_not_whole_or_too_alike():
    with pytest.raises(
        htr.SpectrumError, match=r"1 of 4 values are no whole numbers, such as 2\.5"
    ):
        htr.fit_powerlaw([1, 2.5, 3, 4], discrete=True)
    with pytest.raises(htr.SpectrumError, match="nearly all are equal"):
        htr.fit_powerlaw([1000] * 500 + [1001], discrete=True, min_tail=400)
    with pytest.raises(ValueError, match="no comparison for whole numbers"):
        htr.fit_powerlaw([1, 1, 1, 2, 3, 9], discrete=True).compare("lognormal")


def test_a_picture_draws_the_law_of_whole_numbers():
    pytest.importorskip("matplotlib").use("Agg")
    fit = htr.fit_powerlaw(np.random.default_rng(0).zipf(2.5, 300), xmin=1, discrete=True)
    line = next(line for line in fit.plot().lines if "alpha" in line.get_label())
    x, y = line.get_data()
    assert y[x == 2] == pytest.approx(1 - 1 / special.zeta(fit.alpha, 1))

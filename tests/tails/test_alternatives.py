"""Likelihood ratios against fits by other means."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, optimize, stats

import bayes_htr as htr
from tests.reference.tail_cases import sample

CASES = ["pareto 2.5, 500", "lognormal, 400", "gaussian 200x200", "trained 120x80"]


def power_law(t):
    return math.log(len(t) / t.sum()) - t * len(t) / t.sum()


def best(loss, starts):
    options = {"xatol": 1e-10, "fatol": 1e-12, "maxiter": 20000, "maxfev": 20000}
    found = [optimize.minimize(loss, x, method="Nelder-Mead", options=options) for x in starts]
    return min(found, key=lambda result: result.fun)


@pytest.mark.parametrize("name", CASES)
def test_lognormal(name):
    fit = htr.fit_powerlaw(sample(name), xmin=float(np.median(sample(name))))
    found = fit.compare("lognormal")
    t = np.log(fit.tail / fit.xmin)

    def loss(p):
        law = stats.norm(p[0], math.exp(p[1]))
        return -(law.logpdf(t) - law.logsf(0)).sum()

    theirs = best(loss, [[0.0, 0.0], [-5.0, 1.0], [t.mean(), math.log(t.std())]])
    ours = power_law(t).sum() - found.ratio
    assert ours >= -theirs.fun - 1e-6
    if found.parameters:
        mu, sigma = found.parameters["mu"] - math.log(fit.xmin), found.parameters["sigma"]
        assert -loss([mu, math.log(sigma)]) == pytest.approx(ours, abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_truncated_power_law(name):
    fit = htr.fit_powerlaw(sample(name), xmin=float(np.median(sample(name))))
    found = fit.compare("truncated_power_law")
    y = fit.tail / fit.xmin
    t = np.log(y)

    def log_likelihood(alpha, c):
        def density(u):
            return math.exp((1 - alpha) * u - c * math.expm1(u))

        ends = [0, 0.25, 1, 2, 4, 8, 16, 40]
        z = sum(integrate.quad(density, *e)[0] for e in itertools.pairwise(ends))
        return ((1 - alpha) * t - c * np.expm1(t) - math.log(z)).sum()

    ours = power_law(t).sum() - found.ratio
    if not found.parameters:
        rate = len(t) / t.sum()
        near = [log_likelihood(1 + rate * f, c) for f in (0.97, 1.0) for c in (1e-3, 1e-2)]
        assert max(near) <= ours + 1e-6
        return
    alpha, c = found.parameters["alpha"], found.parameters["Lambda"] * fit.xmin
    assert log_likelihood(alpha, c) == pytest.approx(ours, abs=1e-6)
    for da, dc in ((1e-2, 1), (-1e-2, 1), (0, 1.02), (0, 0.98)):
        assert log_likelihood(alpha + da, c * (dc or 1)) < ours + 1e-9


def test_exponential():
    values = 2 + np.random.default_rng(0).exponential(3.0, 400)
    fit = htr.fit_powerlaw(values, xmin=2.0)
    found = fit.compare("exponential")
    assert found.parameters["Lambda"] == pytest.approx(1 / (values - 2).mean(), rel=1e-10)
    power = (math.log((fit.alpha - 1) / 2) - fit.alpha * np.log(values / 2)).sum()
    other = stats.expon(2.0, (values - 2).mean()).logpdf(values).sum()
    assert found.ratio == pytest.approx(power - other, rel=1e-10)
    assert found.favours == "exponential"
    assert found.nested_p is None


def test_vuong_statistic():
    values = sample("lognormal, 400")
    fit = htr.fit_powerlaw(values, xmin=1.0)
    found = fit.compare("exponential")
    t = np.log(fit.tail)
    scale = (fit.tail - 1).mean()
    summands = power_law(t) - (t + stats.expon(1.0, scale).logpdf(fit.tail))
    z = summands.sum() / (math.sqrt(len(t)) * summands.std())
    assert found.normalised == pytest.approx(z, rel=1e-9)
    assert found.vuong_p == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-9)


def test_scale_does_not_matter():
    values = sample("lognormal, 400")
    for name in htr.tails.ALTERNATIVES:
        one, other = (htr.fit_powerlaw(values * s, xmin=s).compare(name) for s in (1.0, 1e-30))
        assert one.ratio == pytest.approx(other.ratio, rel=1e-6)


def test_heavier_than_a_power_law_the_alternatives_are_the_power_law():
    t = np.sort(np.random.default_rng(0).gamma(0.3, 1.0, 500))
    fit = htr.fit_powerlaw(np.exp(t), xmin=1.0)
    found = fit.compare("lognormal")
    assert (found.ratio, found.nested_p, found.parameters) == (0.0, 1.0, {})
    assert found.favours == "neither"


def test_lognormal_is_recognised():
    values = np.exp(np.random.default_rng(0).normal(0, 1, 3000))
    found = htr.fit_powerlaw(values, xmin=0.5).compare("lognormal")
    assert found.favours == "lognormal"
    assert found.parameters["mu"] == pytest.approx(0, abs=0.15)
    assert found.parameters["sigma"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("name", "alpha"),
    [("lognormal", 2.5), ("truncated_power_law", 1.5), ("truncated_power_law", 2)],
)
def test_nested_p_values_under_the_power_law(name, alpha):
    random = np.random.default_rng(0)
    p = []
    for _ in range(150):
        values = np.exp(random.exponential(1 / (alpha - 1), 200))
        p.append(htr.fit_powerlaw(values, xmin=1.0).compare(name).nested_p)
    share = np.mean(np.array(p) <= 0.1)
    assert share == pytest.approx(0.1, abs=0.055)


@pytest.mark.parametrize(("name", "share"), [("lognormal", 0.5), ("truncated_power_law", 1.0)])
def test_nested_p_value_is_chi_squared_or_half_of_it(name, share):
    found = htr.fit_powerlaw(sample("lognormal, 400"), xmin=1.0).compare(name)
    assert found.ratio < 0
    assert found.nested_p == pytest.approx(share * stats.chi2.sf(-2 * found.ratio, 1), rel=1e-9)

"""Posteriors of alpha, and intervals that mix them."""

import numpy as np
import pytest
from scipy import integrate, stats

import bayes_htr as htr
from bayes_htr.tails.intervals import GammaPosterior, GridPosterior, interval, intervals_of_each
from tests.reference.tail_cases import sample


def test_known_xmin_is_the_gamma_posterior():
    values = sample("pareto 2.5, 60")
    S = np.log(values).sum()
    fit = htr.fit_powerlaw(values, xmin=1.0, level=0.9)
    expected = 1 + stats.gamma(60, scale=1 / S).ppf([0.05, 0.95])
    np.testing.assert_allclose(fit.interval, expected, rtol=1e-10)
    fit = htr.fit_powerlaw(values, xmin=1.0, level=0.9, prior=(3.0, 2.0))
    expected = 1 + stats.gamma(63, scale=1 / (S + 2)).ppf([0.05, 0.95])
    np.testing.assert_allclose(fit.interval, expected, rtol=1e-10)


def test_a_searched_tail_has_the_posterior_of_all_its_values():
    values = sample("pareto 2.5, 60")
    fit = htr.fit_powerlaw(values)
    S = np.log(fit.tail / fit.xmin).sum()
    posterior = stats.gamma(fit.n_tail, scale=1 / S)
    np.testing.assert_allclose(fit.interval, 1 + posterior.ppf([0.025, 0.975]), rtol=1e-10)
    assert fit.alpha == pytest.approx(1 + posterior.mean(), rel=1e-12)


def test_values_tied_at_xmin_count():
    """Values rounded to one decimal, of which some 70 are xmin itself: 95 % of intervals hold."""
    hits = 0
    for seed in range(300):
        values = np.round(1 + np.random.default_rng(seed).pareto(1.5, 2000), 1)
        fit = htr.fit_powerlaw(values, xmin=1.0)
        assert fit.interval[0] < fit.alpha < fit.interval[1]
        hits += fit.interval[0] <= 2.5 <= fit.interval[1]
    assert hits / 300 == pytest.approx(0.95, abs=0.035)


def test_mixture():
    laws = [stats.gamma(9, scale=0.2), stats.gamma(30, scale=0.1), stats.gamma(4, scale=0.3)]
    posterior = GammaPosterior(np.array([9.0, 30, 4]), np.array([5.0, 10, 1 / 0.3]))
    weights = np.array([0.5, 0.3, 0.2])
    ends = interval(posterior, weights, 0.9)
    for end, q in zip(ends, (0.05, 0.95), strict=True):
        mixed = sum(w * law.cdf(end - 1) for w, law in zip(weights, laws, strict=True))
        assert mixed == pytest.approx(q, abs=1e-10)


def test_intervals_of_several_tails_are_those_of_each_alone():
    n, excess = np.array([9.0, 30.0]), np.array([5.0, 10.0])
    ends = np.stack(intervals_of_each(GammaPosterior.of(excess, n), 0.9), axis=1)
    for each, *tail in zip(ends, excess, n, strict=True):
        alone = GammaPosterior.of(*(np.array([part]) for part in tail))
        assert tuple(each) == interval(alone, np.ones(1), 0.9)


@pytest.mark.parametrize("prior", ["jeffreys", (2.0, 1.0)])
def test_grid_posterior_against_quadrature(prior):
    excess, above, span = 14.0, 20.0, 1.5

    def log_density(a):
        z = -np.expm1(-a * span) / a
        found = -above * np.log(z) - a * excess
        if prior == "jeffreys":
            e = np.exp(-a * span)
            return found + np.log(1 / a**2 - span**2 * e / (1 - e) ** 2) / 2
        return found + np.log(a) - a if a > 0 else -np.inf

    posterior = GridPosterior.of(np.array([excess]), np.array([above]), np.array([span]), prior)
    peak = max(log_density(a) for a in np.linspace(-8, 8, 4001) + 1e-4)

    def mass(low, high):
        return integrate.quad(lambda a: np.exp(log_density(a) - peak), low, high, limit=400)[0]

    total = mass(-12, 0.0 - 1e-9) + mass(1e-9, 15) if prior == "jeffreys" else mass(1e-9, 15)
    for q in (0.025, 0.5, 0.975):
        end = float(posterior.quantile(q)[0])
        low = mass(-12, min(end, -1e-9)) if prior == "jeffreys" else 0.0
        rest = mass(1e-9, end) if end > 0 else 0.0
        assert (low + rest) / total == pytest.approx(q, abs=1e-4)


def log_density_under_gamma(excess, above, span, a, b):
    def log_density(rate):
        z = -np.expm1(-rate * span) / rate
        return -above * np.log(z) - rate * excess + (a - 1) * np.log(rate) - b * rate

    return log_density


@pytest.mark.parametrize("prior", [(2.0, 1.0), (1e4, 1e3), (0.5, 0.1), (1.0, 0.0), (0.2, 1e3)])
@pytest.mark.parametrize(("excess", "above"), [(14.0, 20.0), (145.0, 100.0), (900.0, 800.0)])
def test_gamma_priors_far_from_the_data(prior, excess, above):
    """Rising and falling densities, priors weak and strong, against adaptive quadrature."""
    span = 1.5
    log_density = log_density_under_gamma(excess, above, span, *prior)
    posterior = GridPosterior.of(np.array([excess]), np.array([above]), np.array([span]), prior)
    ends = [float(posterior.quantile(q)[0]) for q in (0.025, 0.5, 0.975)]
    assert ends == sorted(ends)
    logs = np.linspace(np.log(ends[1]) - 60, np.log(ends[1]) + 6, 2_000_001)
    density = log_density(np.exp(logs)) + logs
    mass = np.exp(density - density.max()).cumsum()
    for end, q in zip(ends, (0.025, 0.5, 0.975), strict=True):
        if np.log(end) > logs[0]:
            assert np.interp(np.log(end), logs, mass / mass[-1]) == pytest.approx(q, abs=2e-3)


def test_searched_interval_is_the_mixture_over_frequencies_of_xmin():
    values = sample("pareto 2.5, 60")
    fit = htr.fit_powerlaw(values, bootstrap=400)
    assert sum(fit.xmin_frequencies.values()) == pytest.approx(1)
    assert len(fit.xmin_frequencies) > 3
    low, high = fit.searched_interval
    for end, q in ((low, 0.025), (high, 0.975)):
        mixed = 0.0
        for xmin, share in fit.xmin_frequencies.items():
            tail = values[values >= xmin]
            S = np.log(tail / xmin).sum()
            mixed += share * stats.gamma(len(tail), scale=1 / S).cdf(end - 1)
        assert mixed == pytest.approx(q, abs=1e-6)
    assert high - low > np.diff(fit.interval)[0]

"""The semi-parametric bootstrap."""

import numpy as np
import pytest
from scipy import stats

import bayes_htr as htr
from bayes_htr.tails import bootstrap
from bayes_htr.tails.bootstrap import Model, Replicates, bootstrap_searched, fit_known
from bayes_htr.tails.rules import Rule
from tests.reference.tail_cases import sample


def test_same_seed_same_replicates():
    values = sample("lognormal, 400")
    fits = [htr.fit_powerlaw(values, bootstrap=60, seed=seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(fits[0].replicates.D, fits[1].replicates.D)
    assert not np.array_equal(fits[0].replicates.D, fits[2].replicates.D)


def test_p_value_counts_the_sample_itself():
    D = np.array([0.1, 0.2, 0.3])
    replicates = Replicates(np.zeros(3), np.ones(3), D, np.full(3, 9))
    assert replicates.p_value(0.2) == 3 / 4
    assert replicates.p_value(0.4) == 1 / 4


def test_replicates_are_half_body_half_law():
    """Values below xmin are the sample's own, the others of the fitted law, in their shares."""
    logs = np.sort(np.concatenate([np.linspace(-3, -1, 60), np.linspace(0.5, 2, 40)]))
    model = Model(logs, 60, 0.5, 2.0)
    seen = []

    def searched(drawn, rule, log_xmax):
        seen.append(drawn.copy())
        return original(drawn, rule, log_xmax)

    original = bootstrap.search_xmin
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "search_xmin", searched)
        bootstrap_searched(model, Rule(), 400, np.random.default_rng(0))
    drawn = np.concatenate(seen)
    assert drawn.shape == (400, 100)
    body = drawn < 0.5
    assert body.mean() == pytest.approx(0.6, abs=0.02)
    assert np.isin(drawn[body], logs[:60]).all()
    assert stats.kstest(drawn[~body] - 0.5, stats.expon(scale=0.5).cdf).pvalue > 1e-3


def test_chunks_make_no_difference_to_how_many(monkeypatch):
    monkeypatch.setattr(bootstrap, "_TOGETHER", 700)
    fit = htr.fit_powerlaw(sample("pareto 2.5, 60"), bootstrap=37)
    assert fit.replicates.D.shape == fit.replicates.rate.shape == (37,)
    assert np.isfinite(fit.replicates.D).all()


def test_known_xmin_distance_is_free_of_alpha():
    """Its law under the fitted model depends on n alone: Lilliefors' for the exponential."""
    random = np.random.default_rng(0)
    _, D = fit_known(np.sort(random.exponential(0.3, (4000, 30)), axis=1), Rule("two-sided"), None)
    assert np.quantile(D, 0.95) == pytest.approx(0.1918, abs=0.004)  # 1.0753 / sqrt(30) or so


def test_lognormal_values_are_refused_and_power_laws_are_not():
    random = np.random.default_rng(0)
    lognormal = htr.fit_powerlaw(np.exp(random.normal(size=2000)), xmin=1.0, bootstrap=199)
    assert lognormal.p_value == 1 / 200
    power = htr.fit_powerlaw(np.exp(random.exponential(size=2000)), xmin=1.0, bootstrap=199)
    assert power.p_value > 0.05
    searched = htr.fit_powerlaw(np.exp(random.exponential(size=400)), bootstrap=199)
    assert searched.p_value > 0.05


@pytest.mark.slow
def test_known_xmin_p_values_are_uniform():
    random = np.random.default_rng(1)
    p = []
    for seed in range(1000):
        values = np.exp(random.exponential(size=50))
        p.append(htr.fit_powerlaw(values, xmin=1.0, bootstrap=199, seed=seed).p_value)
    assert stats.kstest(p, "uniform").pvalue > 1e-3

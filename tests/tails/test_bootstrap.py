"""The semi-parametric bootstrap."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

import bayes_htr as htr
from bayes_htr.tails import bootstrap
from bayes_htr.tails.bootstrap import (
    FittedTails,
    bootstrap_searched,
    chosen_starts,
    fit_known,
    p_value,
    second_round,
    tails_at,
)
from bayes_htr.tails.search import Rule
from tests.reference.tail_cases import sample


def test_same_seed_same_replicates():
    values = sample("lognormal, 400")
    fits = [htr.fit_powerlaw(values, bootstrap=60, seed=seed) for seed in (1, 1, 2)]
    assert fits[0].to_dict() == fits[1].to_dict()
    assert fits[0].searched_interval != fits[2].searched_interval


def test_p_value_counts_the_sample_itself():
    D = np.array([0.1, 0.2, 0.3])
    assert p_value(D, 0.2) == 3 / 4
    assert p_value(D, 0.4) == 1 / 4


def test_p_values_are_of_one_round_and_of_both():
    values = sample("lognormal, 400")
    fit = htr.fit_powerlaw(values, bootstrap=80, seed=3)
    tails, random = tails_of(values), np.random.default_rng(3)
    log_xmin, first = bootstrap_searched(tails, Rule(), 80, random)
    _, second = second_round(tails, Rule(), log_xmin, random)
    D = np.concatenate([first, second])
    assert fit.clauset_p_value == (1 + (first >= fit.D).sum()) / 81
    assert fit.p_value == (1 + (D >= fit.D).sum()) / 161
    given = htr.fit_powerlaw(values, xmin=1.0, bootstrap=80)
    assert given.p_value == given.clauset_p_value


def test_replicates_are_half_body_half_law():
    """Values below xmin are the sample's own, the others of the fitted law, in their shares."""
    logs = np.sort(np.concatenate([np.linspace(-3, -1, 60), np.linspace(0.5, 2, 40)]))
    tails = FittedTails(logs, np.array([60]), np.array([0.5]), np.array([2.0]))
    seen = []

    def searched(drawn, rule, log_xmax):
        seen.append(drawn.copy())
        return original(drawn, rule, log_xmax)

    original = bootstrap.search_xmin
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "search_xmin", searched)
        bootstrap_searched(tails, Rule(), 400, np.random.default_rng(0))
    drawn = np.concatenate(seen)
    assert drawn.shape == (400, 100)
    body = drawn < 0.5
    assert body.mean() == pytest.approx(0.6, abs=0.02)
    assert np.isin(drawn[body], logs[:60]).all()
    assert stats.kstest(drawn[~body] - 0.5, stats.expon(scale=0.5).cdf).pvalue > 1e-3


def tails_of(values):
    fit = htr.fit_powerlaw(values)
    logs = np.log(np.sort(values))
    start = np.array([fit.n - fit.n_tail])
    return FittedTails(logs, start, logs[start], np.array([fit.alpha - 1]))


def test_chunks_make_no_difference_to_how_many(monkeypatch):
    monkeypatch.setattr(bootstrap, "_VALUES_AT_A_TIME", 700)
    tails = tails_of(sample("pareto 2.5, 60"))
    log_xmin, D = bootstrap_searched(tails, Rule(), 37, np.random.default_rng(0))
    assert D.shape == log_xmin.shape == (37,)
    assert np.isfinite(D).all() and np.isfinite(log_xmin).all()


def test_second_round_draws_from_the_tails_that_the_first_chose(monkeypatch):
    tails = tails_of(sample("lognormal, 400"))
    log_xmin, _ = bootstrap_searched(tails, Rule(), 50, np.random.default_rng(0))
    seen = []

    def searched(tails, rule, count, random):
        seen.append((tails, count))
        return original(tails, rule, count, random)

    original = bootstrap.bootstrap_searched
    monkeypatch.setattr(bootstrap, "bootstrap_searched", searched)
    second_round(tails, Rule(), log_xmin, np.random.default_rng(1))
    ((drawn_from, count),) = seen
    assert count == 50
    logs = tails.log_values
    for b in range(50):
        begin = int(np.flatnonzero(logs >= log_xmin[b] - 1e-12)[0])
        assert drawn_from.start[b] == begin
        rate = (len(logs) - begin) / (logs[begin:] - logs[begin]).sum()
        assert drawn_from.rate[b] == pytest.approx(rate, rel=1e-9)


def test_tails_of_equal_values_begin_at_the_first():
    logs = np.log([1.0, 2, 2, 2, 3, 4, 5])
    tails = FittedTails(logs, np.array([0]), logs[:1], np.array([1.0]))
    starts = chosen_starts(tails, Rule(), np.log([1.5, 2.0, np.nan, 9.0]))
    np.testing.assert_array_equal(starts, [1, 1, 5])
    np.testing.assert_allclose(tails_at(tails, Rule(), starts).log_xmin, np.log([2, 2, 4]))


def test_second_round_tails_are_no_smaller_than_the_rule_allows():
    logs = np.log(np.arange(1.0, 21))
    tails = FittedTails(logs, np.array([0]), logs[:1], np.array([1.0]))
    starts = chosen_starts(tails, Rule(min_tail=8), np.log([3.0, 19.0]))
    np.testing.assert_array_equal(starts, [2, 12])


@pytest.mark.parametrize(("xmax", "known"), [("largest", False), ("largest", True), (30.0, False)])
def test_replicates_have_their_own_upper_end_where_it_was_fitted(monkeypatch, xmax, known):
    values = sample("pareto 2.5, 60")
    values = values[values < 30]
    seen = []

    def searched(drawn, rule, log_xmax):
        seen.extend(zip(drawn[:, -1], log_xmax, strict=True))
        return search(drawn, rule, log_xmax)

    def given(t, rule, span):
        seen.extend(zip(t[:, -1], span[:, 0], strict=True))
        return fit(t, rule, span)

    search, fit = bootstrap.search_xmin, bootstrap.fit_known
    monkeypatch.setattr(bootstrap, "search_xmin", searched)
    monkeypatch.setattr(bootstrap, "fit_known", given)
    lower = {"xmin": float(np.sort(values)[0])} if known else {}
    htr.fit_powerlaw(values, xmax=xmax, bootstrap=20, **lower)
    largest, ends = np.array(seen).T
    assert len(ends) == (20 if known else 40)
    if xmax == "largest":
        np.testing.assert_allclose(ends, largest)
        assert len(set(ends)) > 1
    else:
        np.testing.assert_allclose(ends, np.log(30.0))


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


def test_a_rejection_is_decided_where_more_replicates_would_not_undo_it():
    fit = htr.fit_powerlaw(1 + np.random.default_rng(0).pareto(2.0, 100), bootstrap=100)
    assert fit.replicates == 200
    for exceeding, decision in ((0, True), (8, True), (15, None), (25, None), (40, False)):
        changed = dataclasses.replace(fit, p_value=(1 + exceeding) / 201)
        low, high = stats.binomtest(exceeding, 200).proportion_ci(0.99)
        expected = True if high <= 0.1 else False if low > 0.1 else None
        assert changed.rejected() is decision is expected
    known = htr.fit_powerlaw(fit.values, xmin=fit.xmin, bootstrap=50)
    assert known.replicates == 50
    assert htr.fit_powerlaw(fit.values).rejected() is None
    assert dataclasses.replace(fit, p_value=0.3).rejected(0.5) is True

"""powerlaw 2 and WeightWatcher 0.7.7: their values on record, and where they are wrong.

The values are in `tests/reference/tail_values.json`, which `make_tail_values.py` wrote. Where the
two are installed (`pip install "bayes-htr[peers]"`) they are asked again.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import bayes_htr as htr
from tests.reference.powerlaw_search import search
from tests.reference.tail_cases import RECIPES, sample

FILE = Path(__file__).parents[1] / "reference" / "tail_values.json"
CASES = json.loads(FILE.read_text())["cases"]
SMALL = {"tiny 15"}


def recorded(name):
    values = sample(name)
    assert values.sum() == pytest.approx(CASES[name]["sum"], rel=1e-9), "other samples: make anew"
    return values, CASES[name]


def weightwatcher_options(values):
    return {"min_tail": 8, "correction": "n-1"} if len(values) < 20 else {}


def check(fit, theirs, tolerance):
    for name in {"alpha", "xmin", "D", "sigma"} & theirs.keys():
        assert getattr(fit, name) == pytest.approx(theirs[name], rel=tolerance), name


@pytest.mark.parametrize("name", RECIPES)
def test_weightwatcher_on_record(name):
    values, case = recorded(name)
    fit = htr.fit_powerlaw(values, **weightwatcher_options(values))
    check(fit, case["weightwatcher"], 1e-10)


@pytest.mark.parametrize("name", RECIPES)
def test_powerlaw_on_record(name):
    values, case = recorded(name)
    theirs = {key: case["powerlaw"][key] for key in ("alpha", "xmin", "D")}
    check(htr.fit_powerlaw(values, min_tail=3), theirs, 1e-10)
    for xmin, alpha, D in case["powerlaw"]["candidates"]:
        fit = htr.fit_powerlaw(values, xmin=xmin * (1 - 1e-13))
        assert (fit.alpha, fit.D) == pytest.approx((alpha, D), rel=1e-10)


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - SMALL))
def test_alternatives_on_record(name):
    """Its simplex search may stop early: our likelihood is at least that at its parameters."""
    values, case = recorded(name)
    xmin = case["powerlaw"]["xmin"]
    fit = htr.fit_powerlaw(values, xmin=min(xmin, values[values >= xmin * (1 - 1e-12)].min()))
    t = np.log(fit.tail / fit.xmin)
    jacobian = np.log(fit.tail).sum()
    power = len(t) * (math.log(len(t) / t.sum()) - 1) - jacobian
    theirs = case["powerlaw"]["alternatives"]
    for law in ("exponential", "truncated_power_law"):
        ours = power - fit.compare(law).ratio
        assert ours >= theirs[law]["log_likelihood"] - 1e-6 * len(t), law
    assert power - fit.compare("exponential").ratio == pytest.approx(
        theirs["exponential"]["log_likelihood"], rel=1e-6
    )
    mu, sigma = theirs["lognormal"]["parameters"].values()
    law = stats.norm(mu - math.log(fit.xmin), sigma)
    there = (law.logpdf(t) - law.logsf(0)).sum() - jacobian
    assert power - fit.compare("lognormal").ratio >= there - 1e-6 * len(t)


def test_powerlaw_normalises_a_lognormal_wrongly_far_in_its_tail():
    """The law that it finds there fits no better than the power law, and it says that it does."""
    values, case = recorded("pareto 2.5, 60")
    theirs = case["powerlaw"]["alternatives"]["lognormal"]
    fit = htr.fit_powerlaw(values, min_tail=3)
    t = np.log(fit.tail / fit.xmin)
    mu, sigma = theirs["parameters"].values()
    law = stats.norm(mu - math.log(fit.xmin), sigma)
    right = (law.logpdf(t) - law.logsf(0)).sum() - np.log(fit.tail).sum()
    assert theirs["log_likelihood"] > right + 0.5
    found = fit.compare("lognormal")
    assert found.ratio == 0.0
    assert found.favours == "neither"


def test_weightwatcher_counts_ties_wrongly():
    """It takes every repeated value as a candidate whose tail leaves out its equals below."""
    pytest.importorskip("weightwatcher")
    from weightwatcher.WW_powerlaw import pl_fit

    values = np.round(1 + np.random.default_rng(3).pareto(1.5, 300), 1)
    theirs, ours = pl_fit(values), htr.fit_powerlaw(values)
    assert (ours.alpha, ours.xmin, ours.D) == pytest.approx(search(values), rel=1e-10)
    held = int((values >= theirs.xmin).sum())
    assert theirs.sigma != pytest.approx((theirs.alpha - 1) / math.sqrt(held), rel=1e-6)
    assert ours.sigma == pytest.approx((ours.alpha - 1) / math.sqrt(ours.n_tail), rel=1e-12)


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - SMALL))
def test_an_upper_end_against_powerlaw(name):
    """Its alpha is no more likely than ours under the law with both ends."""
    values, case = recorded(name)
    theirs = case["powerlaw"]["up_to_median"]
    assert theirs["xmin"] == pytest.approx(values.min(), rel=1e-9)
    xmax = theirs["xmax"] * (1 + 1e-12)
    fit = htr.fit_powerlaw(values, xmin=values.min(), xmax=xmax)
    t = np.log(values[values <= xmax] / fit.xmin)
    L = math.log(xmax / fit.xmin)

    def log_likelihood(alpha):
        a = alpha - 1
        return len(t) * math.log(a / -math.expm1(-a * L)) - a * t.sum()

    assert log_likelihood(fit.alpha) >= log_likelihood(theirs["alpha"]) - 1e-9


@pytest.mark.parametrize("name", RECIPES)
def test_weightwatcher_installed(name):
    pytest.importorskip("weightwatcher")
    from weightwatcher.WW_powerlaw import pl_fit

    values = sample(name)
    theirs = pl_fit(values)
    ours = htr.fit_powerlaw(values, **weightwatcher_options(values))
    check(ours, {k: getattr(theirs, k) for k in ("alpha", "xmin", "D", "sigma")}, 1e-10)


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - {"pareto 2.5, 500", "pareto 1.8, 1500"}))
def test_powerlaw_installed(name):
    powerlaw = pytest.importorskip("powerlaw", minversion="2.0")
    values = sample(name)
    theirs = powerlaw.Fit(values, parameter_ranges={"alpha": [1, 1000]}, verbose=0)
    check(
        htr.fit_powerlaw(values, min_tail=3),
        {k: float(getattr(theirs, k)) for k in ("alpha", "xmin", "D")},
        1e-10,
    )

"""Likelihood ratios against fits by other means; moments of the families against quadrature."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, optimize, special, stats

import bayes_htr as htr
from bayes_htr.errors import SpectrumError
from bayes_htr.tails.alternatives import LOGNORMAL, TRUNCATED_POWER_LAW, TwoParameterFamily
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


@pytest.mark.parametrize("name", CASES)
def test_stretched_exponential(name):
    fit = htr.fit_powerlaw(sample(name), xmin=float(np.median(sample(name))))
    found = fit.compare("stretched_exponential")
    t = np.log(fit.tail / fit.xmin)

    def loss(p):
        beta, log_c = math.exp(p[0]), p[1]
        return -(p[0] + log_c + beta * t - math.exp(log_c) * np.expm1(beta * t)).sum()

    theirs = best(loss, [[a, b] for a in (-4.0, -1.0, 0.5) for b in (-3.0, 0.0, 4.0)])
    ours = power_law(t).sum() - found.ratio
    assert ours >= -theirs.fun - 1e-6
    if found.parameters:
        beta, rate = found.parameters["beta"], found.parameters["Lambda"]
        law = stats.weibull_min(beta, scale=1 / rate)
        direct = (law.logpdf(fit.tail) - law.logsf(fit.xmin) + np.log(fit.tail)).sum()
        assert direct == pytest.approx(ours, rel=1e-6)


def test_stretched_exponential_is_recognised_and_its_limit_is_the_power_law():
    random = np.random.default_rng(0)
    found = htr.fit_powerlaw(random.weibull(0.6, 3000), xmin=0.5).compare("stretched_exponential")
    assert found.favours == "stretched_exponential"
    assert found.parameters["beta"] == pytest.approx(0.6, abs=0.06)
    assert found.parameters["Lambda"] == pytest.approx(1, abs=0.25)
    share = [
        htr.fit_powerlaw(1 + random.pareto(1.5, 200), xmin=1.0).compare("stretched_exponential")
        for _ in range(200)
    ]
    assert np.mean([c.nested_p <= 0.1 for c in share]) == pytest.approx(0.1, abs=0.05)
    assert any(c.parameters == {} and c.ratio == 0 for c in share)
    with pytest.raises(SpectrumError, match="no law of two parameters"):
        htr.tails.alternatives.compare(np.full(5, 0.3), 1.0, "stretched_exponential")


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


# The families of two parameters

FAMILIES = {"lognormal": LOGNORMAL, "truncated_power_law": TRUNCATED_POWER_LAW}
LAWS = [
    (2.0, 0.3),
    (1e-3, 1e-12),  # a long plateau, then a sharp end
    (-0.7, 1e-9),
    (50.0, 1e-15),
    (0.5, 1e6),
    (-3e3, 2e3),
    (-1e4, 30.0),
    (-40.0, 1e-3),
    (-1e-9, 1.0),
]


def by_quad(family, b, c):
    """The moments, independent of the code's own mode and reach."""
    if family is LOGNORMAL:
        s, mode, width = (lambda t: t * t / 2), max(0.0, -b / c), c**-0.5
    else:
        s = lambda t: special.exprel(t) * t - t if t < 700 else math.inf  # noqa: E731
        mode = math.log1p(-b / c) if b < 0 else 0.0
        width = math.exp(-mode / 2) * c**-0.5
    peak = b * mode + c * s(mode)

    def density(t):
        return math.exp(peak - b * t - c * s(t))

    distances = [width * 2.0**k for k in range(-12, 12)] + list(range(1, 40))
    ends = sorted({max(0.0, mode + sign * d) for d in distances for sign in (-1, 1)})
    ends = [e for e in itertools.pairwise(ends) if max(map(density, (*e, sum(e) / 2))) > 1e-25]

    def integral(f):
        g = lambda t: f(t) * density(t)  # noqa: E731
        return math.fsum(integrate.quad(g, *e, epsabs=0, epsrel=1e-11)[0] for e in ends)

    z = integral(lambda t: 1.0)
    m, n = integral(lambda t: t) / z, integral(s) / z
    products = [
        lambda t: (t - m) ** 2,
        lambda t: (t - m) * (s(t) - n),
        lambda t: (s(t) - n) ** 2,
    ]
    return math.log(z) - peak, m, n, *(integral(f) / z for f in products)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize(("b", "c"), LAWS)
@pytest.mark.filterwarnings("ignore::scipy.integrate.IntegrationWarning")
def test_moments(family, b, c):
    assert family.moments(b, c) == pytest.approx(by_quad(family, b, c), rel=1e-8)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_reach_holds_all_of_the_density(family):
    random = np.random.default_rng(0)
    for _ in range(2000):
        c = 10.0 ** random.uniform(-18, 8)
        b = random.choice([-1, 1]) * 10.0 ** random.uniform(-3, 6)
        mode, below, above = family.reach(b, c)
        t = np.array([mode, mode - below, mode + above])
        fallen = b * (t - mode) + c * (family.s(t) - family.s(t)[0])
        rounding = 1e-12 * (abs(b) * mode + c * family.s(t)[0])
        assert below == mode or fallen[1] > 45 - 1e-6 - rounding
        assert fallen[2] > 45 - 1e-6 - rounding


def samples():
    random = np.random.default_rng(0)
    for n in (2, 3, 4, 5, 20, 100, 2000):
        yield random.exponential(random.choice([0.01, 0.3, 3.0]), n)
        yield random.gamma(0.4, 2.0, n)
        yield random.gamma(3.0, 0.3, n)
        yield random.uniform(0, random.choice([0.01, 1, 10]), n)
        yield np.abs(random.normal(random.choice([0, 30]), 1, n))
        yield np.log1p(random.exponential(100.0, n))
        yield 1e-3 * random.weibull(2, n)
        yield np.round(random.exponential(1, n) * 2) / 2
    yield np.array([0.0] + [1.0] * 200)  # nearly all in one place
    yield np.array([0.0] * 200 + [1.0])


def by_lbfgs(family, t):
    """The loss of the best law that L-BFGS-B finds in `(b mean, log c)`."""
    mean_t, s = t.mean(), family.s(t)

    def loss(p):
        b, c = p[0] / mean_t, math.exp(p[1]) / s.max()
        law = family.moments(b, c)
        slopes = [(mean_t - law.t) / mean_t, c * (s.mean() - law.s)]
        return b * mean_t + c * s.mean() + law.log_z, np.array(slopes)

    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 500}
    bounds = [(-1e4, 1e4), (-40, 20)]
    return optimize.minimize(
        loss, [1.0, 0.0], jac=True, bounds=bounds, method="L-BFGS-B", options=options
    ).fun


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_fit(family):
    fitted = 0
    for t in samples():
        t = t - t.min()
        if t.max() == 0:
            continue
        found, theirs = family.fit(t), by_lbfgs(family, t)
        power_law = 1 + math.log(t.mean())
        if found is None:
            assert theirs >= power_law - 1e-9
            continue
        fitted += 1
        b, c, log_z = found
        law = family.moments(b, c)
        ours = b * t.mean() + c * family.s(t).mean() + law.log_z
        assert log_z == law.log_z
        assert ours < power_law
        assert ours <= theirs + 1e-12 * (1 + abs(theirs))
        # The only point where both means agree is the maximum.
        assert law.t == pytest.approx(t.mean(), rel=0, abs=1e-7 * math.sqrt(law.tt))
        assert law.s == pytest.approx(family.s(t).mean(), rel=0, abs=1e-7 * math.sqrt(law.ss))
    assert fitted > 25


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_fit_takes_few_evaluations(family, monkeypatch):
    counted = []
    moments = TwoParameterFamily.moments
    monkeypatch.setattr(
        TwoParameterFamily, "moments", lambda self, b, c: counted.append(1) or moments(self, b, c)
    )
    most = 0
    for t in samples():
        if t.max() > t.min():
            counted.clear()
            family.fit(t - t.min())
            most = max(most, len(counted))
    assert most <= 16


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_values_that_are_all_equal_have_no_fit(family):
    with pytest.raises(SpectrumError, match="all lie 2 times above"):
        family.fit(np.full(5, math.log(2)))


def test_values_too_far_apart_for_a_cut_off():
    assert TRUNCATED_POWER_LAW.fit(np.array([0.0, 1.0, 720.0])) is None


def test_the_remainder_of_the_exponential_keeps_its_digits():
    t = np.array([0.0, 1e-9, 1e-4, 0.00999, 0.01001, 0.5, 30.0])
    exact = [0.0, 5.000000001666666667e-19, 5.000166670833416668e-09]
    assert TRUNCATED_POWER_LAW.s(t)[:3] == pytest.approx(exact, rel=1e-15, abs=0)
    terms = [math.fsum(x**k / math.factorial(k) for k in range(2, 120)) for x in t.tolist()]
    assert TRUNCATED_POWER_LAW.s(t) == pytest.approx(terms, rel=1e-12)

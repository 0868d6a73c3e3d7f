"""Moments against adaptive quadrature, and the fit against a general optimiser."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, optimize, special

from bayes_htr.errors import SpectrumError
from bayes_htr.tails.exponential_family import Excess, Family, HalfSquare

FAMILIES = [HalfSquare(), Excess()]
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
    if isinstance(family, HalfSquare):
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


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
@pytest.mark.parametrize(("b", "c"), LAWS)
@pytest.mark.filterwarnings("ignore::scipy.integrate.IntegrationWarning")
def test_moments(family, b, c):
    assert family.moments(b, c) == pytest.approx(by_quad(family, b, c), rel=1e-8)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
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


def by_lbfgs(family: Family, t):
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


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
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
        law = family.moments(found.b, found.c)
        ours = found.b * t.mean() + found.c * family.s(t).mean() + law.log_z
        assert found.log_z == law.log_z
        assert ours < power_law
        assert ours <= theirs + 1e-12 * (1 + abs(theirs))
        # The only point where both means agree is the maximum.
        assert law.t == pytest.approx(t.mean(), rel=0, abs=1e-7 * math.sqrt(law.tt))
        assert law.s == pytest.approx(family.s(t).mean(), rel=0, abs=1e-7 * math.sqrt(law.ss))
    assert fitted > 25


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
def test_fit_takes_few_evaluations(family, monkeypatch):
    counted = []
    moments = Family.moments
    monkeypatch.setattr(
        Family, "moments", lambda self, b, c: counted.append(1) or moments(self, b, c)
    )
    most = 0
    for t in samples():
        if t.max() > t.min():
            counted.clear()
            family.fit(t - t.min())
            most = max(most, len(counted))
    assert most <= 16


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
def test_values_that_are_all_equal_have_no_fit(family):
    with pytest.raises(SpectrumError, match="all lie 2 times above"):
        family.fit(np.full(5, math.log(2)))


def test_values_too_far_apart_for_a_cut_off():
    assert Excess().fit(np.array([0.0, 1.0, 720.0])) is None


def test_excess_keeps_its_digits():
    t = np.array([0.0, 1e-9, 1e-4, 0.00999, 0.01001, 0.5, 30.0])
    exact = [0.0, 5.000000001666666667e-19, 5.000166670833416668e-09]
    assert Excess().s(t)[:3] == pytest.approx(exact, rel=1e-15, abs=0)
    terms = [math.fsum(x**k / math.factorial(k) for k in range(2, 120)) for x in t.tolist()]
    assert Excess().s(t) == pytest.approx(terms, rel=1e-12)

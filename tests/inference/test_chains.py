"""The sampler on Pyro programs whose density is known."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from bayes_htr import distributions
from bayes_htr.inference.chains import ChainSettings, coordinates_of, density_at, run_chains

torch.set_num_threads(1)
ONE = torch.ones((), dtype=torch.float64)


def power_law_from_a_random_start():
    """The support of `x` depends on another site."""
    xmin = pyro.sample("xmin", dist.Gamma(4 * ONE, 4 * ONE))
    pyro.sample("x", distributions.Powerlaw(4 * ONE, xmin))
    pyro.factor("half", -0.5 * ONE)


def test_density_of_unconstrained_coordinates():
    values = {"xmin": 0.8 * ONE, "x": 1.7 * ONE}
    z = coordinates_of(power_law_from_a_random_start, values)
    density, found = density_at(power_law_from_a_random_start, z)
    torch.testing.assert_close(found, values)
    expected = stats.gamma(4, scale=1 / 4).logpdf(0.8) + stats.pareto(3, scale=0.8).logpdf(1.7)
    # d xmin = xmin dz, and d x = (x - xmin) dz.
    jacobian = (ONE * 0.8).log() + (ONE * 0.9).log()
    assert float(density) == pytest.approx(expected + float(jacobian) - 0.5, rel=1e-12)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"x": ONE}, "no value for the sites xmin"), ({"xmin": ONE, "y": ONE, "x": ONE}, "no site y")],
)
def test_every_site_needs_a_value(values, message):
    with pytest.raises(ValueError, match=message):
        coordinates_of(power_law_from_a_random_start, values)


@pytest.mark.long
def test_a_support_that_moves():
    start = {"xmin": ONE, "x": 2 * ONE}
    settings = ChainSettings(warmup=150, samples=400, chains=1)
    chains = run_chains(power_law_from_a_random_start, start, settings, seed=0)
    xmin, x = (chains.sites[name].flatten()[::4].numpy() for name in ("xmin", "x"))
    assert (x > xmin).all()
    assert stats.kstest(xmin, stats.gamma(4, scale=1 / 4).cdf).pvalue > 1e-3
    assert stats.kstest(x / xmin, stats.pareto(3).cdf).pvalue > 1e-3


def test_chains_differ_and_repeat():
    start = {"xmin": ONE, "x": 2 * ONE}
    settings = ChainSettings(warmup=5, samples=5, chains=2)
    state = torch.get_rng_state()
    first, again, other = (
        run_chains(power_law_from_a_random_start, start, settings, seed=s) for s in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.sites["x"], again.sites["x"])
    assert not torch.equal(first.sites["x"], other.sites["x"])
    assert not torch.equal(first.sites["x"][0], first.sites["x"][1])


def test_trajectories_at_their_limit_are_counted():
    settings = ChainSettings(warmup=20, samples=30, chains=1, max_tree_depth=1)
    start = {"xmin": ONE, "x": 2 * ONE}
    chains = run_chains(power_law_from_a_random_start, start, settings, seed=0)
    assert chains.saturated == [30]
    assert chains.leapfrogs == [1.0]


def test_divergences_are_counted():
    def funnel():
        scale = pyro.sample("log_scale", dist.Normal(0 * ONE, 3 * ONE)).exp()
        pyro.sample("x", dist.Normal(torch.zeros(9).double(), scale).to_event(1))

    start = {"log_scale": 0 * ONE, "x": torch.ones(9).double()}
    chains = run_chains(funnel, start, ChainSettings(60, 60, 1, target_accept=0.5), seed=0)
    assert sum(chains.divergences) > 0


def test_a_density_that_is_nowhere_finite():
    def program():
        pyro.sample("x", dist.Normal(0 * ONE, ONE))
        pyro.factor("bad", ONE * float("nan"))

    with pytest.raises(ValueError, match="not finite in 100 tries"):
        run_chains(program, {"x": ONE}, ChainSettings(5, 5, 1), seed=0)

"""Checks of spectra against laws: right under the law, and able to tell another."""

from __future__ import annotations

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy import integrate, stats

import bayes_htr as htr
from bayes_htr.posterior.checks import uniform_band
from bayes_htr.posterior.laws import law_of, prior_lambda_max, quantiles
from bayes_htr.priors import MatrixPrior

LAWS = [
    htr.ESD(htr.Lomax(2.5, 0.7)),
    htr.ESD(htr.Powerlaw(3.0, xmin=0.2)),
    htr.ESD(htr.Gamma(2.0, 3.0)),
    htr.SingularValues(htr.Exponential(2.0)),
    htr.SingularValues(htr.LogNormal(0.0, 1.0)),
    htr.MaxEigenvalue(htr.Frechet(2.0, 1.5)),
]


def density(prior, name, shape):
    return MatrixPrior.of(prior, name, shape).unscaled_density()


def spectra_from(prior, S, K, seed=0):
    """`(S, K)`: spectra drawn from the law itself."""
    law = density(prior, "w", (K, K + 3)).spectral[0].statistic.law.distribution()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if isinstance(prior, htr.MaxEigenvalue):
            top = law.expand((S, 1)).sample().double()
            return torch.cat([top, top * torch.rand(S, K - 1, dtype=torch.float64)], 1)
        x = law.expand((S, K)).sample().double()
    return x.square() if isinstance(prior, htr.SingularValues) else x


@pytest.mark.parametrize("prior", LAWS, ids=repr)
def test_under_the_law_p_values_are_uniform(prior):
    lam = spectra_from(prior, 1500, 12)
    check = htr.PosteriorSpectra({"w": lam}).check("w", prior)
    assert stats.kstest(check.p_values, "uniform").pvalue > 1e-3
    assert check.inside == pytest.approx(0.95, abs=0.02)
    assert stats.kstest(check.pit.reshape(-1), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("k", [1, 2, 12, 60])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_band_covers_simultaneously(k, level):
    band = uniform_band(k, level)
    u = np.sort(np.random.default_rng(7).random((6000, k)), axis=1)
    inside = ((u >= band[:, 0]) & (u <= band[:, 1])).all(1).mean()
    assert inside == pytest.approx(level, abs=0.025)
    beta = stats.beta(np.arange(1, k + 1), np.arange(k, 0, -1))
    tails = np.stack([beta.cdf(band[:, 0]), beta.sf(band[:, 1])])
    np.testing.assert_allclose(tails, tails[0, 0], rtol=1e-6)  # the same for all


@pytest.mark.parametrize("K", [5, 40])
def test_a_tail_index_that_was_integrated_out(K):
    """Spectra of a random tail index, and one drawn given each: uniform again."""
    prior = htr.ESD(htr.Lomax(tail_index=htr.Gamma(9.0, 3.0), scale=0.5))
    rng = np.random.default_rng(1)
    t = rng.gamma(9.0, 1 / 3.0, size=(2000, 1))
    lam = torch.as_tensor(0.5 * rng.pareto(t, size=(2000, K)))
    law = law_of(prior, "w", (K, K))
    drawn = law.hyperparameters(lam, {})["w:ESD.tail_index"]
    assert stats.ks_2samp(drawn, t[:, 0]).pvalue > 1e-3  # as the hyperprior, over data sets
    S = np.log1p(lam.numpy() / 0.5).sum(1)
    given = stats.gamma(9.0 + K, scale=1 / (3.0 + S)).cdf(drawn)
    assert stats.kstest(given, "uniform").pvalue > 1e-3
    check = htr.PosteriorSpectra({"w": lam}).check("w", prior)
    assert stats.kstest(check.p_values, "uniform").pvalue > 1e-3
    assert check.inside == pytest.approx(0.95, abs=0.02)


def test_another_law_is_told():
    lam = torch.as_tensor(np.random.default_rng(0).uniform(0.5, 1.5, (1, 60)))
    check = htr.PosteriorSpectra({"w": lam}).check("w", htr.ESD(htr.Lomax(2.5)))
    assert check.p_value < 1e-4
    assert check.inside == 0
    assert "high" in str(check)
    assert "not wholly within the band" in " ".join(str(check).split())


def test_numbers_are_scipys():
    lam = spectra_from(LAWS[0], 3, 30)
    check = htr.PosteriorSpectra({"w": lam}).check("w", LAWS[0], level=0.9)
    law = stats.lomax(1.5, scale=0.7)
    for i in range(3):
        expected = stats.kstest(lam[i], law.cdf, method="exact")
        assert check.distances[i] == pytest.approx(expected.statistic, rel=1e-9)
        assert check.p_values[i] == pytest.approx(expected.pvalue, rel=1e-6)
    np.testing.assert_allclose(check.expected, law.ppf(np.arange(1, 31) / 31))
    np.testing.assert_allclose(check.eigenvalue_band, law.ppf(check.band), rtol=1e-9)
    assert (check.p_value, check.distance) == (check.p_values.mean(), check.distances.mean())
    assert f"p-value {check.p_value:.3g}" in " ".join(str(check).split())
    assert "law [90 %]" in str(check)


def test_hyperparameters_go_with_their_draws():
    """Each draw is held to the law at its own hyperparameters."""
    alphas, lam = [1.5, 9.0], spectra_from(LAWS[0], 2, 30)
    prior = htr.ESD(htr.Lomax(tail_index=htr.Joint(htr.Gamma(9.0, 3.0))))
    spectra = htr.PosteriorSpectra(
        {"w": lam}, hyperparameters={"w:ESD.tail_index": torch.tensor(alphas)}
    )
    check = spectra.check("w", prior)
    for i, a in enumerate(alphas):
        expected = stats.lomax(a).cdf(np.sort(lam[i]))
        np.testing.assert_allclose(check.pit[i], expected, rtol=1e-9)
    with pytest.raises(htr.PriorError, match=r"no value for the hyperparameter w:ESD\.tail_index"):
        htr.PosteriorSpectra({"w": lam}).check("w", prior)


def test_zero_and_outside_of_the_support():
    lam = torch.tensor([[5.0, 1.0, 0.1, 0.0]])
    spectra = htr.PosteriorSpectra({"w": lam})
    assert spectra.check("w", htr.ESD(htr.Powerlaw(3.0, xmin=0.2))).pit[0, :2].tolist() == [0, 0]
    assert spectra.check("w", htr.ESD(htr.LogNormal(0.0, 1.0))).pit[0, 0] < 1e-300


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (None, "fc.weight has no prior"),
        (htr.Entries(htr.Normal(0.0, 1.0)), "states no law for the spectrum alone"),
        (htr.ESD(htr.ImproperPowerlaw(2.0)), "has no finite integral"),
        (htr.ESD(htr.Lomax(htr.Hill())), "takes its exponent from the matrix"),
        (htr.StableRank(htr.Exponential(1.0)), "is a factor and no density"),
        (htr.ESD(htr.Lomax(2.0)) & htr.MaxEigenvalue(htr.Frechet(2.0)), "states no law"),
        (htr.ESD(htr.Lomax(2.0)).above(3.0), "acts only above a threshold"),
        (htr.ESD(htr.Powerlaw(2.0), tail=0.3), "scores the upper tail alone"),
    ],
    ids=str,
)
def test_priors_without_a_law_are_refused(network, prior, message):
    priors = {"conv.weight": htr.ESD(htr.Lomax(2.0)).scaled(0.1)}  # the power has no integral
    posterior = htr.Posterior(network(), htr.Priors(priors | ({"fc.*": prior} if prior else {})))
    with pytest.raises(htr.PriorError, match=rf"{message}.*state.? a law: conv\.weight"):
        posterior.check("fc.weight")
    assert posterior.check("conv.weight").law == "ESD(Lomax(2.0))"
    assert posterior.check("fc.weight", htr.ESD(htr.Lomax(2.0))).matrix == "fc.weight"
    with pytest.raises(KeyError, match="no matrix 'fc9'"):
        posterior.check("fc9")


def test_check_of_a_posterior(sampled):
    check = sampled.check("conv.weight", samples=12, level=0.8)
    direct = sampled.spectra(12)
    tail = direct.hyperparameters["conv.weight:ESD.tail_index"].numpy()
    lam = np.sort(direct["conv.weight"].numpy())
    np.testing.assert_allclose(check.pit, stats.lomax(tail[:, None]).cdf(lam), rtol=1e-5)
    assert check.level == 0.8
    assert "% of 12 draws lie" in " ".join(str(check).split())
    with pytest.raises(ValueError, match="level=2"):
        sampled.check("conv.weight", level=2)


@pytest.mark.parametrize("prior", [LAWS[0], LAWS[3], LAWS[5]], ids=repr)
@pytest.mark.parametrize("S", [1, 9])
def test_picture(prior, S, tmp_path):
    spectra = htr.PosteriorSpectra({"w": spectra_from(prior, S, 9)})
    check = spectra.check("w", prior)
    figure = check.plot(path=tmp_path / "check.png")
    assert (tmp_path / "check.png").read_bytes().startswith(b"\x89PNG")
    left, right = figure.axes
    points = next(line for line in left.lines if line.get_label() == "spectrum")
    np.testing.assert_allclose(points.get_ydata(), np.median(check.eigenvalues, 0))
    k = check.pit.shape[1]
    steps = np.arange(1, k + 1) / (k + 1)
    transforms = np.stack([line.get_ydata() for line in right.lines[1:]])
    np.testing.assert_allclose(transforms, check.pit - steps)
    assert repr(prior) in figure.get_suptitle()
    plt.close("all")


# What laws say.


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_interval_of_the_largest_eigenvalue(level):
    law = law_of(htr.MaxEigenvalue(htr.Frechet(2.0)), "w", (6, 6))
    expected = stats.invweibull(2.0).interval(level)
    np.testing.assert_allclose(law.interval({}, level), expected, rtol=0.03)
    assert law.of_largest and not law_of(htr.ESD(htr.Lomax(2.0)), "w", (6, 6)).of_largest


@pytest.mark.parametrize("prior", LAWS[:-1], ids=repr)
def test_density_of_an_eigenvalue(prior):
    """Against the share of simulated eigenvalues in intervals."""
    K = 6
    law = law_of(prior, "w", (K, K))
    lam = spectra_from(prior, 40_000, K).reshape(-1).numpy()
    edges = np.quantile(lam, [0.1, 0.3, 0.6, 0.9])
    for low, high in pairwise(edges):
        x = np.linspace(low, high, 4001)
        mass = integrate.simpson(law.density(torch.as_tensor(x), {}).numpy(), x=x)
        share = ((lam > low) & (lam <= high)).mean()
        assert mass == pytest.approx(share, abs=0.006)
    assert float(law.density(torch.tensor([1e-9]), {})) >= 0


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.999])
def test_quantiles_of_a_law_that_torch_cannot_invert(p):
    law = htr.distributions.Gamma(torch.tensor([[2.0], [5.0]], dtype=torch.float64), 3.0)
    found = quantiles(law, torch.tensor([p], dtype=torch.float64))
    expected = stats.gamma([[2.0], [5.0]], scale=1 / 3.0).ppf(p)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_prior_of_the_largest_eigenvalue():
    lomax = stats.lomax(1.5, scale=0.7)
    draws = prior_lambda_max(density(LAWS[0], "w", (8, 5)))
    assert stats.kstest(draws, lambda x: lomax.cdf(x) ** 5).pvalue > 1e-3
    roots = prior_lambda_max(density(LAWS[3], "w", (8, 5)))
    assert stats.kstest(roots, lambda x: stats.expon(scale=0.5).cdf(x**0.5) ** 5).pvalue > 1e-3
    latent = htr.MaxEigenvalue(htr.Frechet(2.0, scale=htr.Gamma(4.0, 2.0)))
    drawn = np.random.default_rng(0)
    scales = drawn.gamma(4.0, 0.5, 20_000)
    expected = stats.invweibull(2.0, scale=scales).rvs(random_state=drawn)
    assert stats.ks_2samp(prior_lambda_max(density(latent, "w", (8, 5))), expected).pvalue > 1e-3
    entries = prior_lambda_max(density(htr.Entries(htr.Normal(0.0, 0.5)), "w", (8, 1)))
    assert stats.kstest(entries / 0.25, stats.chi2(8).cdf).pvalue > 1e-3
    state = torch.get_rng_state()
    assert torch.equal(
        prior_lambda_max(density(latent, "w", (8, 5)), seed=1)[:3],
        prior_lambda_max(density(latent, "w", (8, 5)), seed=1)[:3],
    )
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(htr.PriorError, match="no simulator"):
        prior_lambda_max(density(LAWS[0] & LAWS[5], "w", (8, 5)))

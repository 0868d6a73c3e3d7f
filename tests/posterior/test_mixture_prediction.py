"""Predictive distributions of targets: moments, quantiles and scores against SciPy and sampling."""

from __future__ import annotations

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, stats

import bayes_htr as htr
from bayes_htr.models.likelihood_forms import as_likelihood
from bayes_htr.models.targets import SCALE
from bayes_htr.posterior.mixture_prediction import MixturePrediction

MEANS = torch.tensor([[[0.0], [2.0]], [[1.0], [-1.0]], [[3.0], [0.5]]], dtype=torch.float64)
SCALES = (0.5, 1.0, 2.0)
TARGETS = torch.tensor([0.4, -0.3], dtype=torch.float64)


def normal():
    values = tuple({SCALE: torch.tensor(s, dtype=torch.float64)} for s in SCALES)
    likelihood = as_likelihood(htr.Normal(scale=htr.HalfCauchy(1.0)))
    return MixturePrediction(MEANS, values, likelihood)


def of(make, outputs=MEANS):
    return MixturePrediction(outputs, ({},) * len(outputs), as_likelihood(make))


def mixture_of(example):
    """The mixture of one example in SciPy: density and distribution function."""
    laws = [stats.norm(float(m), s) for m, s in zip(MEANS[:, example, 0], SCALES, strict=True)]
    return (
        lambda x: np.mean([law.pdf(x) for law in laws], axis=0),
        lambda x: np.mean([law.cdf(x) for law in laws], axis=0),
    )


def test_densities_and_moments():
    prediction = normal()
    assert len(prediction) == 2
    for i in range(2):
        pdf, cdf = mixture_of(i)
        y = float(TARGETS[i])
        assert prediction.log_prob(TARGETS)[i].exp().item() == pytest.approx(pdf(y))
        assert prediction.cdf(TARGETS)[i].item() == pytest.approx(cdf(y))
        mean = integrate.quad(lambda x, pdf=pdf: x * pdf(x), -30, 30)[0]
        variance = integrate.quad(lambda x, pdf=pdf, m=mean: (x - m) ** 2 * pdf(x), -30, 30)[0]
        assert prediction.mean[i].item() == pytest.approx(mean)
        assert prediction.std[i].item() == pytest.approx(np.sqrt(variance))
        assert prediction.epistemic[i].item() == pytest.approx(MEANS[:, i, 0].numpy().std())
    noise = np.sqrt(np.mean(np.square(SCALES)))
    np.testing.assert_allclose(prediction.aleatoric, noise)


@pytest.mark.parametrize("q", [0.001, 0.3, 0.5, 0.975])
def test_quantiles_are_those_of_the_distribution_function(q):
    np.testing.assert_allclose(normal().cdf(normal().quantile(q)), q, rtol=1e-6)


def test_intervals_cover_what_they_say():
    prediction = normal()
    draws = prediction.sample(3000)
    for level in (0.5, 0.9):
        low, high = prediction.interval(level)
        share = ((draws >= low) & (draws <= high)).double().mean(0)
        np.testing.assert_allclose(share, level, atol=0.03)
        inside = ((low <= TARGETS) & (high >= TARGETS)).double().mean()
        assert prediction.covers(TARGETS, level) == inside


def test_the_crps_is_the_integral_of_the_squared_error_of_the_distribution():
    found = normal().crps(TARGETS)
    for i in range(2):
        _, cdf = mixture_of(i)
        y = float(TARGETS[i])
        below = integrate.quad(lambda x, cdf=cdf: cdf(x) ** 2, -30, y)[0]
        above = integrate.quad(lambda x, cdf=cdf: (1 - cdf(x)) ** 2, y, 40)[0]
        assert found[i].item() == pytest.approx(below + above, rel=1e-5)


def test_scores_from_draws_are_near_the_closed_forms():
    """A normal distribution of which nothing but draws is used."""

    class Drawn(dist.Normal):
        def icdf(self, value):
            raise NotImplementedError

    class OnlyDrawn(dist.TorchDistribution):
        arg_constraints = {}  # noqa: RUF012
        support = dist.constraints.real

        def __init__(self, base):
            self.base = base
            super().__init__(base.batch_shape, validate_args=False)

        def sample(self, sample_shape=()):
            return self.base.sample(sample_shape)

        def log_prob(self, value):
            return self.base.log_prob(value)

    closed = of(lambda f: dist.Normal(f.squeeze(-1), 0.8))
    drawn = of(lambda f: OnlyDrawn(dist.Normal(f.squeeze(-1), 0.8)))
    np.testing.assert_allclose(drawn.crps(TARGETS), closed.crps(TARGETS), atol=0.06)
    for q in (0.1, 0.5, 0.9):
        np.testing.assert_allclose(drawn.quantile(q), closed.quantile(q), atol=0.25)
    half = of(lambda f: Drawn(f.squeeze(-1), 0.8))
    np.testing.assert_allclose(half.quantile(0.5), closed.quantile(0.5), atol=0.25)
    assert not drawn.has_moments
    with pytest.raises(htr.DataError, match=r"OnlyDrawn, which likelihood=.* has no mean"):
        _ = drawn.mean


def test_counts_and_whole_arrays():
    counts = of(lambda f: dist.Poisson(f.squeeze(-1).exp()))
    y = torch.tensor([1, 3])
    rates = MEANS[..., 0].exp().numpy()
    expected = np.log(stats.poisson.pmf(y.numpy(), rates).mean(0))
    np.testing.assert_allclose(counts.log_prob(y), expected)
    np.testing.assert_allclose(counts.mean, rates.mean(0))
    pairs = of(lambda f: dist.MultivariateNormal(f.expand(-1, 2), torch.eye(2).double()))
    assert not pairs.is_of_single_targets
    assert pairs.log_prob(torch.zeros(2, 2)).shape == (2,)


def test_joined_is_one_after_another():
    first, second = normal(), normal()
    joined = MixturePrediction.joined([first, second])
    torch.testing.assert_close(joined.mean, torch.cat([first.mean, second.mean]))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: p.log_prob([1.0]), htr.DataError, r"shape \(1,\) must have shape \(2,\)"),
        (lambda p: p.crps([1.0, np.nan]), htr.DataError, "1 targets are not finite"),
        (lambda p: p.quantile(1.5), ValueError, r"q=1.5 must be a finite number"),
        (lambda p: p.interval(0.0), ValueError, "level=0.0 must be"),
        (lambda p: p.sample(0), ValueError, "n=0 must be a whole number"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(normal())


def test_a_mixture_prints_its_first_targets():
    outputs = torch.tensor([[0.0, 1, 2, 3, 4, 5, 6], [2.0, 1, 2, 3, 4, 5, 6]])
    whole = MixturePrediction(outputs, ({}, {}), as_likelihood(htr.Normal(scale=0.5)))
    text = str(whole)
    assert repr(whole) == "MixturePrediction(7 examples, 2 draws)"
    assert "7 examples, averaged over 2 draws, of which the first 5" in text
    rows = [line.split() for line in text.splitlines()[3:]]
    assert [row[0] for row in rows] == list("01234")
    low, high = whole.interval()
    assert rows[0][1:] == ["1", f"{float(low[0]):.4g}", f"{float(high[0]):.4g}", "0.5", "1"]
    assert max(map(len, text.splitlines())) <= 80
    assert "<table>" in whole._repr_html_()
    several = MixturePrediction(outputs[:, :4].reshape(2, 2, 2), ({}, {}), whole.likelihood)
    assert "1,0" in str(several)
    cauchy = as_likelihood(lambda o: torch.distributions.Cauchy(o, 1.0))
    assert "mean" not in str(MixturePrediction(outputs, ({}, {}), cauchy))
    arrays = as_likelihood(
        lambda o: torch.distributions.Independent(torch.distributions.Normal(o, 1.0), 1)
    )
    assert "arrays of shape (2,)" in str(MixturePrediction(several.outputs, ({}, {}), arrays))

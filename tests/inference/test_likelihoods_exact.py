"""Every method against exact posteriors: conjugate linear regression, and one logistic weight."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal
from scipy import optimize, special, stats
from torch import nn

import bayes_htr as htr
from bayes_htr.models.targets import SCALE

torch.set_num_threads(1)

TAU, SIGMA, N = 1.5, 0.6, 30
PRIORS = htr.Priors({"*": htr.Entries(htr.Normal(0.0, TAU))})
LEARNT = htr.Normal(scale=htr.HalfCauchy(1.0))


def drawn(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


X = drawn(N, 2, seed=0)
DESIGN = np.column_stack([X.numpy(), np.ones(N)])
Y = X @ torch.tensor([1.0, -0.7], dtype=torch.float64) + 0.4 + SIGMA * drawn(N, seed=1)
LBFGS = htr.MAP(lr=1.0, optimizer=torch.optim.LBFGS, scheduler=None, refresh=htr.Exact())
NUTS = htr.NUTS(warmup=120, samples=200, chains=1)


def linear(inputs=2, bias=True):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return nn.Linear(inputs, 1, bias=bias).double()


def fitted(likelihood, method, epochs, data=(X, Y), net=None, **more):
    net = linear() if net is None else net
    model = htr.BayesianModel(net, PRIORS, likelihood=likelihood)
    given = {"method": method, "epochs": epochs, "batch_size": 100, "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # chains are short
        return htr.fit(model, data, **given | more)


def weights_of(posterior, samples=200):
    """Draws of all weights, the bias last: `(samples, 3)`."""
    draws = list(posterior.guide.draws(samples, seed=0))
    return np.array([np.append(d["weight"].flatten(), d["bias"]) for d in draws])


def conjugate():
    """Mean and covariance of the weights, given the noise."""
    precision = DESIGN.T @ DESIGN / SIGMA**2 + np.eye(3) / TAU**2
    covariance = np.linalg.inv(precision)
    return covariance @ DESIGN.T @ Y.numpy() / SIGMA**2, covariance


def log_evidence(sigma):
    """`log p(y | sigma)`, with the weights integrated out."""
    covariance = sigma**2 * np.eye(N) + TAU**2 * DESIGN @ DESIGN.T
    return stats.multivariate_normal.logpdf(Y.numpy(), np.zeros(N), covariance)


def posterior_of_log_sigma():
    """Mean and standard deviation of `log sigma` under its posterior, by quadrature."""
    grid = np.linspace(-2.5, 1.5, 401)
    log_p = np.array([log_evidence(np.exp(u)) for u in grid])
    log_p += stats.halfcauchy.logpdf(np.exp(grid)) + grid
    p = np.exp(log_p - log_p.max())
    mean = np.average(grid, weights=p)
    return mean, math.sqrt(np.average((grid - mean) ** 2, weights=p))


def test_mode_of_a_regression():
    mean, _ = conjugate()
    net = fitted(htr.Normal(scale=SIGMA), LBFGS, 10).network()
    found = np.append(net.weight.detach().flatten(), net.bias.detach())
    np.testing.assert_allclose(found, mean, rtol=1e-5)


def test_mode_with_a_learnt_noise():
    """In the logarithm of the scale, as of every hyperparameter."""

    def energy(z):
        w, u = z[:3], z[3]
        residuals = Y.numpy() - DESIGN @ w
        likelihood = stats.norm.logpdf(residuals, scale=np.exp(u)).sum()
        prior = stats.norm.logpdf(w, scale=TAU).sum() + stats.halfcauchy.logpdf(np.exp(u)) + u
        return -likelihood - prior

    expected = optimize.minimize(energy, np.zeros(4), tol=1e-10).x
    posterior = fitted(LEARNT, htr.MAP(lr=0.05), 400)
    net = posterior.network()
    found = np.append(net.weight.detach().flatten(), net.bias.detach())
    np.testing.assert_allclose(found, expected[:3], rtol=2e-3)
    assert posterior.hyperparameters()[SCALE] == pytest.approx(np.exp(expected[3]), rel=2e-3)
    history = posterior.history[-1]
    assert history["train_rmse"] == pytest.approx(
        float((Y - net(X).squeeze(1)).square().mean().sqrt().detach()), rel=1e-2
    )
    assert history["energy"] == pytest.approx(
        -stats.halfcauchy.logpdf(np.exp(expected[3]))
        - expected[3]
        + (found**2).sum() / (2 * TAU**2),
        rel=1e-2,
    )


def test_the_joint_density_of_all_coordinates():
    model = htr.BayesianModel(linear(), PRIORS, likelihood=LEARNT)
    w, sigma = drawn(1, 2, seed=4), torch.tensor(0.8, dtype=torch.float64)
    b = drawn(1, seed=5)
    by_hand = 3 * stats.norm.logpdf(Y, (X @ w.T).squeeze(1) + b, 0.8).sum()
    by_hand += stats.norm.logpdf(w, scale=TAU).sum() + stats.norm.logpdf(b, scale=TAU).sum()
    by_hand += stats.halfcauchy.logpdf(0.8)
    params = {"weight": w, "bias": b, SCALE: sigma}
    given = {"num_data": 3 * N, "coordinates": "weight"}
    assert model.log_joint(params, (X, Y), **given).item() == pytest.approx(by_hand, rel=1e-6)
    given = {"num_data": 3 * N, "coordinates": "map"}
    constants = 3 * stats.norm.logpdf(0.0, scale=TAU)
    found = model.log_joint(params | {SCALE: sigma.log()}, (X, Y), **given).item()
    assert found == pytest.approx(by_hand - constants + math.log(0.8), rel=1e-6)
    assert set(model.initial_params()) == set(params)


@pytest.mark.parametrize("guide", ["meanfield", AutoMultivariateNormal])
def test_svi_of_a_regression(guide):
    """The full guide has the posterior; the factorised one its mean, and its precisions."""
    mean, covariance = conjugate()
    sd = np.sqrt(np.diag(covariance))
    method = htr.SVI(guide=guide, lr=0.05, init_scale=0.1, particles=2)
    draws = weights_of(fitted(htr.Normal(scale=SIGMA), method, 200), samples=1000)
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.25 * sd.min())
    if guide == "meanfield":
        sd = 1 / np.sqrt(np.diag(np.linalg.inv(covariance)))
    np.testing.assert_allclose(draws.std(0), sd, rtol=0.1)


def test_svi_with_a_learnt_noise():
    """Mean and spread of the logarithm; the noise is independent of the weights in every guide."""
    mean, sd = posterior_of_log_sigma()
    method = htr.SVI(guide="meanfield", lr=0.04, init_scale=0.1, particles=2)
    posterior = fitted(LEARNT, method, 250)
    draws = posterior.hyperparameter_draws(1000)[SCALE].log()
    assert float(draws.mean()) == pytest.approx(mean, abs=0.5 * sd)
    assert float(draws.std()) == pytest.approx(sd, rel=0.2)
    weights = weights_of(posterior, samples=1000)
    noise = np.array([float(d[SCALE]) for d in posterior.guide.draws(1000, seed=0)])
    assert abs(np.corrcoef(weights[:, 0], noise)[0, 1]) < 0.15  # streams of their own


def test_nuts_of_a_regression_with_a_learnt_noise():
    posterior = fitted(LEARNT, NUTS, 0)
    mean, sd = posterior_of_log_sigma()
    draws = posterior.hyperparameter_draws(200)[SCALE].log()
    assert float(draws.mean()) == pytest.approx(mean, abs=0.3 * sd)
    assert float(draws.std()) == pytest.approx(sd, rel=0.2)
    prediction = posterior.predict(X, samples=200)
    exact, covariance = conjugate()  # given a noise near the learnt one
    np.testing.assert_allclose(prediction.mean, DESIGN @ exact, atol=0.15)
    spread = np.sqrt(np.einsum("ni,ij,nj->n", DESIGN, covariance, DESIGN))
    np.testing.assert_allclose(prediction.epistemic, spread, rtol=0.5)
    assert f"rhat:{SCALE}" in posterior.history[-1]


def test_nuts_of_a_regression():
    mean, covariance = conjugate()
    draws = weights_of(fitted(htr.Normal(scale=SIGMA), NUTS, 0))
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.25 * sd.min())
    np.testing.assert_allclose(draws.std(0), sd, rtol=0.2)


class OneWeight:
    """The posterior of the weight of `p(y = 1) = sigmoid(w x)` on a grid."""

    x = drawn(12, 1, seed=7)
    y = (x.squeeze(1) + 0.8 * drawn(12, seed=8) > 0).long()
    grid = np.linspace(-6, 10, 4001)

    @classmethod
    def log_density(cls, w):
        """Of an array of weights, without constants."""
        logits = np.multiply.outer(np.asarray(w), cls.x.squeeze(1).numpy())
        signs = 2 * cls.y.numpy() - 1
        return special.log_expit(signs * logits).sum(-1) - np.square(w) / (2 * TAU**2)

    @classmethod
    def moments(cls):
        """Mean and standard deviation."""
        p = np.exp(cls.log_density(cls.grid) - cls.log_density(cls.grid).max())
        mean = np.average(cls.grid, weights=p)
        return mean, math.sqrt(np.average((cls.grid - mean) ** 2, weights=p))

    @classmethod
    def fit(cls, method, epochs):
        net = linear(1, bias=False)
        return fitted(htr.Bernoulli(), method, epochs, (cls.x, cls.y), net)


def test_mode_of_one_logistic_weight():
    expected = OneWeight.grid[OneWeight.log_density(OneWeight.grid).argmax()]
    net = OneWeight.fit(LBFGS, 10).network()
    assert net.weight.item() == pytest.approx(expected, abs=0.004)


def test_svi_of_one_logistic_weight():
    """The normal law with the largest bound, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()

    def loss(z):
        return -(weights @ OneWeight.log_density(z[0] + np.exp(z[1]) * nodes)) - z[1]

    mean, log_sd = optimize.minimize(loss, [1.0, 0.0]).x
    method = htr.SVI(guide="meanfield", lr=0.05, init_scale=0.3, particles=2)
    draws = [float(d["weight"]) for d in OneWeight.fit(method, 200).guide.draws(1000, seed=0)]
    assert np.mean(draws) == pytest.approx(mean, abs=0.15 * np.exp(log_sd))
    assert np.std(draws) == pytest.approx(np.exp(log_sd), rel=0.12)


def test_nuts_of_one_logistic_weight():
    mean, sd = OneWeight.moments()
    draws = [float(d["weight"]) for d in OneWeight.fit(NUTS, 0).guide.draws(200, seed=0)]
    assert np.mean(draws) == pytest.approx(mean, abs=0.3 * sd)
    assert np.std(draws) == pytest.approx(sd, rel=0.2)

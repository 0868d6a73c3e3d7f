"""The density of weights: its constant, its gradient, and where matrices are in parameters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import nn

import bayes_htr as htr
from tests.models.densities import draw, matrix_prior, model_of
from tests.reference.modules import MAKERS, layer

PRIORS = {
    "ESD": htr.ESD(htr.Lomax(2.5, 0.7)),
    "SingularValues": htr.SingularValues(htr.Exponential(0.7)),
    "MaxEigenvalue": htr.MaxEigenvalue(htr.Frechet(2.0, 1.5)),
    "Entries": htr.Entries(htr.Normal(0.1, 0.5)),
    "ESD & Entries": htr.ESD(htr.Lomax(2.5, 0.7)) & htr.Entries(htr.Normal(0.0, 0.5)),
    "MaxEigenvalue & ESD": htr.MaxEigenvalue(htr.Frechet(2.0)).scaled(2.0)
    & htr.ESD(htr.Lomax(2.0)),
}
SHAPES = [(4, 2), (2, 5), (3, 3), (1, 4), (4, 1), (1, 1)]


def log_c(K, M):
    gammas = special.multigammaln(M / 2, K) + special.multigammaln(K / 2, K)
    return (M * K + K * K) / 2 * math.log(math.pi) - gammas


def log_j(lam, M):
    K = len(lam)
    gaps = [math.log(abs(lam[i] - lam[j])) for i in range(K) for j in range(i)]
    return sum(gaps) + (M - K - 1) / 2 * np.log(lam).sum()


def reference(kind, W, s=1.0):
    """The table of `docs/theory.md` by hand, from singular values of numpy."""
    lam = np.linalg.svd(W.numpy(), compute_uv=False) ** 2
    K, M = min(W.shape), max(W.shape)
    volume = log_c(K, M) + log_j(lam, M)
    lomax = stats.lomax(1.5, scale=0.7).logpdf(lam).sum()
    normal = stats.norm(0.1, 0.5).logpdf(W.numpy()).sum()
    top = math.log(lam[0])
    values = {
        "ESD": special.gammaln(K + 1) + s * lomax - volume,
        "SingularValues": special.gammaln(K + 1)
        + s * stats.expon(scale=1 / 0.7).logpdf(np.sqrt(lam)).sum()
        - np.log(2 * np.sqrt(lam)).sum()
        - volume,
        "MaxEigenvalue": special.gammaln(K)
        + s * stats.invweibull(2.0, scale=1.5).logpdf(lam[0])
        - (K - 1) * top
        - volume,
        "Entries": s * normal,
        "ESD & Entries": special.gammaln(K + 1)
        + s * (lomax + stats.norm(0.0, 0.5).logpdf(W.numpy()).sum())
        - volume,
        # ESD says most of the spectrum: one Jacobian, its own
        "MaxEigenvalue & ESD": special.gammaln(K + 1)
        + s * stats.lomax(1.0).logpdf(lam).sum()
        + 2 * s * stats.invweibull(2.0).logpdf(lam[0])
        - volume,
    }
    return values[kind]


@pytest.mark.parametrize("kind", list(PRIORS))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("s", [1.0, 2.5])
def test_is_the_formula(kind, shape, s):
    prior, W = matrix_prior(PRIORS[kind], shape, s), draw(shape)
    assert prior.log_density(W, {}).item() == pytest.approx(reference(kind, W, s), rel=1e-9)
    both = torch.stack([W, 2 * W])
    torch.testing.assert_close(prior.log_density(both, {})[0], prior.log_density(W, {}))


@pytest.mark.parametrize("kind", list(PRIORS))
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient(kind, shape):
    prior = matrix_prior(PRIORS[kind], shape, 1.5)
    assert torch.autograd.gradcheck(
        lambda W: prior.log_density(W, {}), draw(shape).requires_grad_()
    )


def test_products_do_not_depend_on_the_order():
    a, b, c = (PRIORS[k] for k in ("ESD", "SingularValues", "MaxEigenvalue"))
    W = draw((4, 3))
    values = [matrix_prior(p, (4, 3)).log_density(W, {}) for p in (a & b & c, c & b & a, b & c & a)]
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(values[0], values[2])
    d = htr.MaxEigenvalue(htr.Exponential())
    weak = matrix_prior(a & b.scaled(1e-9) & d.scaled(1e-9), (4, 3)).log_density(W, {})
    torch.testing.assert_close(weak, matrix_prior(a, (4, 3)).log_density(W, {}))


def test_outside_the_support_it_is_zero():
    prior = matrix_prior(htr.ESD(htr.Powerlaw(2.0, 1.0)), (3, 2))
    W = torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, 0.0]], dtype=torch.float64)
    assert prior.log_density(W, {}).isfinite()
    assert prior.log_density(W / 2.5, {}) == -math.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_hyperparameters_of_another(dtype):
    prior = matrix_prior(htr.ESD(htr.Lomax(tail_index=htr.Gamma(9.0, 3.0))), (4, 2))
    (name,) = prior.hyperparameters
    value = prior.log_density(draw((4, 2)).to(dtype), {name: torch.tensor(1.5)})
    assert value.dtype == dtype
    reference = matrix_prior(htr.ESD(htr.Lomax(2.5)), (4, 2)).log_density(draw((4, 2)), {})
    torch.testing.assert_close(value.double(), reference, rtol=1e-5, atol=1e-5)


# Re-weighting: the density turns heavy-tailed matrices of another law into the stated one.

REWEIGHTED = {
    "ESD": (htr.ESD(htr.Lomax(3.0)), stats.lomax(2.0)),
    "SingularValues": (htr.SingularValues(htr.Gamma(4.0, 4.0)), stats.gamma(4.0, scale=0.25)),
    "MaxEigenvalue": (htr.MaxEigenvalue(htr.Frechet(2.0)), stats.invweibull(2.0)),
}


def weighted_ks(x, weights, law):
    order = x.argsort()
    cdf = weights[order].cumsum(0) / weights.sum()
    return (cdf.numpy() - law.cdf(x[order].numpy())).__abs__().max()


@pytest.mark.parametrize("kind", list(REWEIGHTED))
@pytest.mark.parametrize("shape", [(4, 2), (5, 3)])
def test_reweighted_multivariate_t_has_the_stated_law(kind, shape, record_property):
    prior, law = REWEIGHTED[kind]
    n, freedom, scale = 200_000, 3.0, 0.5
    D = shape[0] * shape[1]
    chi2 = torch.as_tensor(np.random.default_rng(1).chisquare(freedom, n))
    x = scale * draw((n, D), seed=1) / (chi2 / freedom).sqrt()[:, None]
    log_q = torch.as_tensor(
        stats.multivariate_t(np.zeros(D), scale**2 * np.eye(D), df=freedom).logpdf(x.numpy())
    )
    W = x.unflatten(1, shape)
    weights = (matrix_prior(prior, shape).log_density(W, {}) - log_q).exp()
    size = (weights.sum() ** 2 / weights.square().sum()).item()
    record_property("effective_sample_size", size)
    print(f"{kind} {shape}: effective sample size {size:.0f} of {n}")
    assert size > 500
    # with its constant: the mean weight is 1
    assert abs(weights.mean() - 1) < 5 * (n / size) ** 0.5 / n**0.5
    sigma = torch.linalg.svdvals(W)
    critical = 2.2 / size**0.5  # of Kolmogorov's law at 1e-4
    if kind == "MaxEigenvalue":
        lam = sigma.square()
        assert weighted_ks(lam[:, 0], weights, law) < critical
        for i in range(1, lam.shape[1]):
            rest = stats.beta(lam.shape[1] - i, i)
            assert weighted_ks(lam[:, i] / lam[:, 0], weights, rest) < critical
        return
    values = sigma.square() if kind == "ESD" else sigma
    K = values.shape[1]
    assert weighted_ks(values.flatten(), weights.repeat_interleave(K), law) < critical


# A Gamma tail index, integrated out.


@pytest.mark.parametrize("s", [1.0, 2.5])
@pytest.mark.parametrize(
    "law",
    [
        htr.Lomax(tail_index=htr.Gamma(9.0, 3.0)),
        htr.Powerlaw(tail_index=htr.Gamma(9.0, 3.0), xmin=1e-3),
    ],
)
def test_integrating_the_tail_index_out_gives_the_map_energy(law, s):
    """`-log` of the integral of the weight density is the marginal energy `+ log J`."""
    shape, hyper = (5, 3), stats.gamma(9.0, scale=1 / 3)
    prior = matrix_prior(htr.ESD(law), shape, s)
    (name,) = prior.hyperparameters
    energies, integrals = [], []
    for factor in (0.5, 1.0, 3.0):
        W = factor * draw(shape)
        t = torch.linspace(1e-4, 15.0, 601, dtype=torch.float64)
        log_p = torch.stack([prior.log_density(W, {name: ti}) for ti in t]).numpy()
        grid = t.numpy()
        log_p = log_p + hyper.logpdf(grid)
        integral = math.log(integrate.simpson(np.exp(log_p - log_p.max()), x=grid)) + log_p.max()
        lam = np.linalg.svd(W.numpy(), compute_uv=False) ** 2
        integrals.append(-integral - log_j(lam, 5))
        model = model_of(htr.Priors(htr.ESD(law)).scaled(s), shape)
        with torch.no_grad():
            model.net[0].weight.copy_(W)
        energies.append(htr.bind(model.priors, model.net)().item())
    np.testing.assert_allclose(np.diff(integrals), np.diff(energies), rtol=1e-5)


# Matrices in parameters.


def placed(kind, prior):
    model = htr.BayesianClassifier(layer(kind), htr.Priors({"*": prior}))
    return [p for p in model.densities().trainable if p.matrices]


@pytest.mark.parametrize("kind", list(MAKERS))
def test_split_is_the_view_and_join_its_inverse(kind):
    for p in placed(kind, htr.ESD(htr.Lomax(2.0))):
        batch = torch.stack([p.parameter.tensor.detach(), 2 * p.parameter.tensor.detach()])
        for tensor in (batch[0], batch):
            split = p.split(tensor)
            assert list(split) == [m.name for m in p.parameter.matrices]
            assert torch.equal(p.join(split), tensor)
        for m in p.parameter.matrices:
            assert torch.equal(split[m.name][1], m.view(batch[1]))
            assert split[m.name].shape == (2, *m.shape)


@pytest.mark.parametrize("prior", [htr.Entries(htr.Normal())])
def test_vectors_and_numbers(prior):
    net = nn.Linear(3, 2)
    net.scale = nn.Parameter(torch.tensor(1.5))
    model = htr.BayesianClassifier(net, htr.Priors({"*": prior}))
    for p in model.densities().trainable:
        tensor = p.parameter.tensor.detach()
        torch.testing.assert_close(p.join(p.split(tensor)), tensor)
        expected = torch.distributions.Normal(0.0, 1.0).log_prob(tensor).sum()
        torch.testing.assert_close(p.log_density(tensor, {}), expected)
        both = torch.stack([tensor, 2 * tensor])
        assert p.join(p.split(both)).shape == both.shape
        assert p.log_density(both, {}).shape == (2,)


@pytest.mark.parametrize(
    "kind",
    [
        "wide",
        "tall",
        "embedding",
        "convolution 1d",
        "grouped convolution",
        "grouped transposed 1d",
        "transposed",
        "attention",
    ],
)
def test_density_of_parameters(kind):
    """The sum over the matrices, and differentiable where they are not in order."""
    for p in placed(kind, htr.ESD(htr.Lomax(2.0)) & htr.Entries(htr.Normal())):
        tensor = p.parameter.tensor.detach()
        expected = sum(
            m.log_density(v.view(tensor), {})
            for m, v in zip(p.matrices, p.parameter.matrices, strict=True)
        )
        torch.testing.assert_close(p.log_density(tensor, {}), expected)
        if tensor.numel() < 150:
            leaf = tensor.clone().requires_grad_()
            assert torch.autograd.gradcheck(lambda x, p=p: p.log_density(x, {}), leaf)


def test_frozen_and_tied_parameters():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)).double()
    net[1].weight = net[0].weight
    net[2].requires_grad_(False)
    model = htr.BayesianClassifier(net, htr.Priors(htr.ESD(htr.Lomax(2.0))))
    assert [p.name for p in model.densities().trainable] == ["0.weight", "0.bias", "1.bias"]
    assert [len(p.matrices) for p in model.densities().trainable] == [1, 0, 0]

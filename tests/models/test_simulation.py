"""Simulated weights: their spectra follow the stated law, their frames are Haar."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import bayes_htr as htr
from tests.models.densities import model_of

N = 20_000
SHAPES = [(6, 3), (3, 5), (4, 4), (1, 5)]
LAWS = {
    "Lomax": (htr.Lomax(2.5, 0.7), stats.lomax(1.5, scale=0.7)),
    "Powerlaw": (htr.Powerlaw(3.0, 0.2), stats.pareto(2.0, scale=0.2)),
    "Frechet": (htr.Frechet(2.0, 1.5), stats.invweibull(2.0, scale=1.5)),
    "Exponential": (htr.Exponential(0.7), stats.expon(scale=1 / 0.7)),
    "Gamma": (htr.Gamma(2.0, 3.0), stats.gamma(2.0, scale=1 / 3)),
}


def sampled(prior, shape, n=N, seed=0):
    model = model_of(prior, shape)
    return htr.sample_prior(model, n, seed=seed)


def sigma(W):
    """Singular values, descending, accurate also where small."""
    return torch.linalg.svdvals(W)


def follows(values, law):
    cdf = law if callable(law) else law.cdf
    assert stats.kstest(values.flatten().numpy(), cdf).pvalue > 1e-3


@pytest.mark.parametrize("law", list(LAWS))
@pytest.mark.parametrize("shape", SHAPES)
def test_esd(shape, law):
    W = sampled(htr.ESD(LAWS[law][0]), shape)["0.weight"]
    assert W.shape == (N, *shape)
    follows(sigma(W).square(), LAWS[law][1])


@pytest.mark.parametrize("law", ["Lomax", "Exponential", "Gamma"])
@pytest.mark.parametrize("shape", [(6, 3), (1, 5)])
def test_singular_values(shape, law):
    follows(sigma(sampled(htr.SingularValues(LAWS[law][0]), shape)["0.weight"]), LAWS[law][1])


@pytest.mark.parametrize("law", ["Frechet", "Lomax", "Exponential"])
@pytest.mark.parametrize("shape", SHAPES)
def test_max_eigenvalue_and_ratios(shape, law):
    lam = sigma(sampled(htr.MaxEigenvalue(LAWS[law][0]), shape)["0.weight"]).square()
    follows(lam[:, 0], LAWS[law][1])
    if lam.shape[1] == 1:
        return
    ratios = lam[:, 1:] / lam[:, :1]
    follows(ratios, stats.uniform())
    # independent of lambda_1 and, but for their order, of each other
    assert stats.spearmanr(lam[:, 0], ratios.mean(1)).pvalue > 1e-3
    follows(ratios[:, 0], stats.beta(ratios.shape[1], 1))


@pytest.mark.parametrize(
    ("prior", "law"),
    [
        (htr.ESD(htr.Lomax(2.5, 0.7)).scaled(2.0), stats.lomax(4.0, scale=0.7)),
        (htr.SingularValues(htr.Exponential(0.7)).scaled(0.5), stats.expon(scale=1 / 0.35)),
        (htr.ESD(htr.Powerlaw(3.0, 0.2)).scaled(3.0), stats.pareto(8.0, scale=0.2)),
        # z^-2 is Gamma((3 s - 1) / 2, rate s)
        (
            htr.MaxEigenvalue(htr.Frechet(2.0, 1.5)).scaled(4.0),
            lambda x: stats.gamma(5.5, scale=0.25).sf((x / 1.5) ** -2.0),
        ),
    ],
    ids=["Lomax", "Exponential", "Powerlaw", "Frechet"],
)
def test_at_a_strength(prior, law):
    values = sigma(sampled(prior, (5, 3))["0.weight"])
    if "SingularValues" not in repr(prior):
        values = values.square()
    follows(values[:, 0] if "Max" in repr(prior) else values, law)


def test_strengths_of_a_schedule():
    prior = htr.MaxEigenvalue(htr.Exponential(1.0)).scheduled(htr.PowerDecay(1.0))
    W = htr.sample_prior(model_of(prior, (5, 3)), N, epoch=4)["0.weight"]
    follows(sigma(W)[:, 0].square(), stats.expon(scale=4.0))
    with pytest.raises(htr.PriorError, match="epoch"):
        htr.sample_prior(model_of(prior, (5, 3)), 2)


def test_entries():
    W = sampled(htr.Entries(htr.Normal(0.3, 2.0)), (5, 3))["0.weight"]
    follows(W, stats.norm(0.3, 2.0))


def test_hyperprior():
    """Given the tail index `t`, `(1 + lambda)^-t` is uniform; `t` has its hyperprior."""
    found = sampled(htr.ESD(htr.Lomax(tail_index=htr.Gamma(9.0, 3.0))), (5, 3))
    (name,) = set(found) - {"0.weight"}
    t = found[name]
    assert t.shape == (N,)
    follows(t, stats.gamma(9.0, scale=1 / 3))
    u = (-t[:, None] * sigma(found["0.weight"]).square().log1p()).exp()
    follows(u, stats.uniform())
    assert stats.spearmanr(t, u.mean(1)).pvalue > 1e-3


def test_shared_hyperprior_has_one_latent():
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)).double()
    law = htr.MaxEigenvalue(htr.Exponential(htr.Shared("rate", htr.Gamma(4.0, 2.0))))
    found = htr.sample_prior(htr.BayesianClassifier(net, htr.Priors(law)), N)
    assert set(found) == {"0.weight", "1.weight", "rate"}
    scaled = [found["rate"] * sigma(found[f"{i}.weight"])[:, 0].square() for i in (0, 1)]
    for values in scaled:
        follows(values, stats.expon())
    assert stats.spearmanr(*scaled).pvalue > 1e-3


@pytest.mark.parametrize("shape", [(4, 2), (3, 3)])
def test_frames_of_simulated_weights(shape):
    """`E[W] = 0`, `E[W_ij^2] = K E[lambda] / (m n)`, and turning changes nothing."""
    W = sampled(htr.ESD(htr.TruncatedPowerlaw(0.0, 1.0, 3.0)), shape)["0.weight"]
    second = min(shape) * 2.0 / (shape[0] * shape[1])
    for w in W.flatten(1).T:
        assert abs(w.mean()) < 4.5 * stats.sem(w.numpy())
        assert abs((w**2).mean() - second) < 4.5 * stats.sem((w**2).numpy())
    Q, P = (torch.linalg.qr(torch.randn(k, k, dtype=torch.float64))[0] for k in shape)
    other = (
        Q @ sampled(htr.ESD(htr.TruncatedPowerlaw(0.0, 1.0, 3.0)), shape, seed=1)["0.weight"] @ P
    )
    for i, j in [(0, 0), (-1, -1)]:
        assert stats.ks_2samp(W[:, i, j].numpy(), other[:, i, j].numpy()).pvalue > 1e-3


# What comes back.


class Mixed(nn.Module):
    """Parameters of two dtypes; a frozen one; a tied one; vectors."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 3)
        self.b = nn.Linear(3, 4, bias=False).double()
        self.low = nn.Linear(3, 3, bias=False).to(torch.bfloat16)
        self.frozen = nn.Linear(3, 3, bias=False).requires_grad_(False)
        self.tied = nn.Linear(4, 3, bias=False)
        self.tied.weight = self.a.weight
        self.scalar = nn.Parameter(torch.tensor(2.0))


@pytest.fixture
def mixed():
    priors = htr.Priors({"scalar": htr.Entries(htr.Normal()), "*.weight": htr.ESD(htr.Lomax(3.0))})
    return htr.BayesianClassifier(Mixed(), priors)


def test_dtypes_and_shapes(mixed):
    with pytest.warns(UserWarning, match=r"no prior on a\.bias: they stay at their present"):
        found = htr.sample_prior(mixed, 7)
    parameters = dict(mixed.net.named_parameters())
    assert set(found) == {"a.weight", "a.bias", "b.weight", "low.weight", "scalar"}
    for name, values in found.items():
        assert values.shape == (7, *parameters[name].shape)
        assert values.dtype == parameters[name].dtype
        assert values.isfinite().all()
        assert not values.requires_grad
    assert (found["a.bias"] == mixed.net.a.bias).all()
    assert found["scalar"].unique().numel() == 7


@pytest.mark.filterwarnings("ignore:no prior")
def test_seeds_and_global_state(mixed):
    torch.manual_seed(5)
    np.random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    before = {n: p.detach().clone() for n, p in mixed.net.named_parameters()}
    a, b, c = (htr.sample_prior(mixed, 3, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    for name in a:
        assert torch.equal(a[name], b[name])
        assert name == "a.bias" or not torch.equal(a[name], c[name])
    for name, p in mixed.net.named_parameters():
        assert torch.equal(p, before[name])
    a["a.bias"].zero_()  # a copy
    assert torch.equal(mixed.net.a.bias, before["a.bias"])


def test_no_warning_where_all_have_priors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        htr.sample_prior(model_of(htr.ESD(htr.Lomax(2.0)), (3, 2)), 1)


@pytest.mark.parametrize("n", [0, -1, 2.5, True])
def test_bad_n(mixed, n):
    with pytest.raises(ValueError, match=f"n={n} must be a whole number"):
        htr.sample_prior(mixed, n)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (htr.ESD(htr.Lomax(2.0)) & htr.Entries(htr.Normal()), r"0\.weight: a product .*htr\.NUTS"),
        (
            htr.ESD(htr.Lomax(tail_index=htr.Gamma(9.0, 3.0))).scaled(2.0),
            r"0\.weight: .* hyperpriors and the strength 2: .*htr\.NUTS",
        ),
        (
            htr.ESD(htr.MarchenkoPastur(0.5)).scaled(1.5),
            r"0\.weight: MarchenkoPastur.* at strength 1\.5 .*htr\.NUTS",
        ),
    ],
    ids=["product", "hyperprior", "family"],
)
def test_what_cannot_be_simulated(prior, message):
    with pytest.raises(htr.PriorError, match=message):
        htr.sample_prior(model_of(prior, (3, 2)), 2)

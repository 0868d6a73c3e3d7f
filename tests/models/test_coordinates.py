"""`log_joint` in weight and spectral coordinates by hand, and how they belong together."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from scipy import stats
from scipy.special import multigammaln
from torch import nn

import bayes_htr as htr
from bayes_htr.models.programs import spectral_start
from bayes_htr.spectra import frame_of, log_frame_constant, log_jacobian
from tests.models.densities import draw, matrix_prior, model_of

LAWS = {
    "ESD": htr.ESD(htr.Lomax(2.5, 0.7)),
    "SingularValues": htr.SingularValues(htr.Exponential(0.7)),
    "MaxEigenvalue": htr.MaxEigenvalue(htr.Frechet(2.0, 1.5)),
    "ESD & Entries": htr.ESD(htr.Lomax(2.5, 0.7)) & htr.Entries(htr.Normal(0.0, 0.5)),
    "MaxEigenvalue & SingularValues": htr.MaxEigenvalue(htr.Exponential(0.3)).scaled(2.0)
    & htr.SingularValues(htr.Exponential(0.7)),
    "hyperprior": htr.ESD(htr.Lomax(tail_index=htr.Gamma(9.0, 3.0))),
    "shared": htr.MaxEigenvalue(htr.Exponential(htr.Shared("rate", htr.Gamma(4.0, 2.0)))),
}


def batch(shape, n=9):
    return draw((n, shape[1]), seed=8), torch.arange(n) % shape[0]


def frame_law(*tensors):
    """`X'X` has a Wishart law with mean `I`, and the frame of `X` is uniform."""
    total = 0.0
    for X in tensors:
        n, K = X.shape
        S = (X.mT @ X).numpy()
        total += stats.wishart(n + 8, np.eye(K) / (n + 8)).logpdf(S)
        total += multigammaln(n / 2, K) - n * K / 2 * math.log(math.pi)
        total -= (n - K - 1) / 2 * np.linalg.slogdet(S)[1]  # from S to X (Muirhead 1982, 2.1.14)
    return float(total)


def likelihood(W, data, num_data):
    return -num_data * F.cross_entropy(data[0] @ W.mT, data[1]).item()


def spectral_sites(model, strength=1.0):
    """Values of all sites, somewhere."""
    pyro.set_rng_seed(3)
    x, y = batch((model.net[0].out_features, model.net[0].in_features))
    trace = poutine.trace(model.pyro_model("spectral")).get_trace(x, y, num_data=9)
    return {
        n: s["value"]
        for n, s in trace.nodes.items()
        if s["type"] == "sample" and not s["is_observed"] and n != "data"
    }, trace.nodes["_RETURN"]["value"]


@pytest.fixture(autouse=True)
def _random_state():
    with torch.random.fork_rng(devices=[]):
        yield


def put_together(sites, statistic):
    U, V = (frame_of(sites[f"0.weight:{side}"]) for side in ("left", "right"))
    if statistic == "MaxEigenvalue":
        top = sites["0.weight:lambda_max"].reshape(1)
        lam = torch.cat([top, top * sites.get("0.weight:ratios", top[:0])])
    else:
        x = sites["0.weight:spectrum"]
        lam = x if statistic == "ESD" else x**2
    return lam, (U * lam.sqrt()) @ V.mT


def test_spectral_by_hand():
    data = batch((4, 3))
    prior = LAWS["ESD & Entries"]
    model = model_of(htr.Priors(prior).scaled(2.5), (4, 3))
    sites, _ = spectral_sites(model)
    assert set(sites) == {f"0.weight:{s}" for s in ("spectrum", "left", "right")}
    lam, W = put_together(sites, "ESD")
    expected = likelihood(W, data, 50) + frame_law(sites["0.weight:left"], sites["0.weight:right"])
    expected += 2.5 * stats.lomax(1.5, scale=0.7).logpdf(lam).sum()
    expected += 2.5 * stats.norm(0, 0.5).logpdf(W.numpy()).sum()
    value = model.log_joint(sites, data, num_data=50, coordinates="spectral").item()
    assert value == pytest.approx(expected, rel=1e-10)


def test_spectral_by_hand_with_max_eigenvalue_and_a_hyperprior():
    data = batch((4, 3))
    model = model_of(htr.Priors(LAWS["shared"]).scaled(2.5), (4, 3))
    sites, _ = spectral_sites(model)
    assert set(sites) == {
        "rate",
        *(f"0.weight:{s}" for s in ("lambda_max", "ratios", "left", "right")),
    }
    lam, W = put_together(sites, "MaxEigenvalue")
    rate = sites["rate"].item()
    expected = likelihood(W, data, 50) + frame_law(sites["0.weight:left"], sites["0.weight:right"])
    expected += 2.5 * stats.expon(scale=1 / rate).logpdf(lam[0].item())
    expected += stats.gamma(4.0, scale=0.5).logpdf(rate)
    value = model.log_joint(sites, data, num_data=50, coordinates="spectral").item()
    assert value == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("epoch", [0, 4])
def test_weight_by_hand_scheduled(epoch):
    data = batch((4, 3))
    prior = LAWS["hyperprior"].scheduled(htr.PowerDecay(1.0)).scaled(8.0)
    model = model_of(prior, (4, 3))
    W, t = draw((4, 3)), torch.tensor(1.75).double()
    (name,) = model.densities(0).trainable[0].matrices[0].hyperparameters
    s = 8.0 if epoch == 0 else 2.0
    lam = np.linalg.svd(W.numpy(), compute_uv=False) ** 2
    expected = likelihood(W, data, 50) + s * stats.lomax(1.75).logpdf(lam).sum() + math.log(6)
    expected += stats.gamma(9.0, scale=1 / 3).logpdf(1.75)
    expected -= log_frame_constant(3, 4) + log_jacobian(torch.as_tensor(lam), 4).item()
    params = {"0.weight": W, name: t}
    value = model.log_joint(params, data, num_data=50, coordinates="weight", epoch=epoch).item()
    assert value == pytest.approx(expected, rel=1e-10)
    for coordinates in ("weight", "spectral"):
        with pytest.raises(htr.PriorError, match="epoch"):
            model.log_joint(params, data, num_data=50, coordinates=coordinates)


@pytest.mark.parametrize("kind", list(LAWS))
@pytest.mark.parametrize("shape", [(4, 3), (2, 2), (2, 1), (3, 5)])
@pytest.mark.parametrize("s", [1.0, 2.5])
def test_change_of_variables(kind, shape, s):
    """Weight and spectral densities of one matrix differ by the Jacobian and the frames' normals.

    `p_W dW = p(sites) d sites`, where the ordered spectrum of the sites has its `K!` and Jacobian.
    """
    data = batch(shape)
    model = model_of(htr.Priors(LAWS[kind]).scaled(s), shape)
    prior = model.densities().trainable[0].matrices[0]
    sites, _ = spectral_sites(model)
    first = prior.spectral[0]
    lam, W = put_together(sites, type(first.statistic).__name__)
    hyper = {n: v for n, v in sites.items() if n in prior.hyperparameters}
    params = {"0.weight": W, **hyper}
    weight = model.log_joint(params, data, num_data=50, coordinates="weight")
    spectral = model.log_joint(sites, data, num_data=50, coordinates="spectral")
    K, M = min(shape), max(shape)
    # what the ordered spectrum has more than the sites
    jacobian = first.log_spectral_density(lam, hyper) - first.log_factor(lam, hyper)
    expected = weight - jacobian + log_frame_constant(K, M) + log_jacobian(lam, M)
    expected = expected + frame_law(sites["0.weight:left"], sites["0.weight:right"])
    torch.testing.assert_close(spectral, expected, rtol=1e-8, atol=1e-8)


def test_change_of_variables_of_one_eigenvalue_integrates():
    """K = 1 without the library's Jacobians: mass of a shell of `W` is that of `lambda`."""
    prior = matrix_prior(LAWS["ESD"], (1, 3))
    r = torch.linspace(1e-6, 2.0, 20_001, dtype=torch.float64)
    W = torch.stack([r, 0 * r, 0 * r], -1).unsqueeze(-2)
    shell = prior.log_density(W, {}).exp() * 4 * math.pi * r**2
    mass = torch.trapezoid(shell, r).item()
    assert mass == pytest.approx(stats.lomax(1.5, scale=0.7).cdf(4.0), rel=1e-5)


@pytest.mark.parametrize("coordinates", ["weight", "spectral"])
def test_vectors_flat_and_frozen(coordinates):
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2, bias=False)).double()
    net[2].requires_grad_(False)
    priors = htr.Priors({"0.bias": htr.Entries(htr.Normal(0.0, 2.0)), "*.weight": LAWS["ESD"]})
    model = htr.BayesianClassifier(net, priors)
    data = batch((2, 3))
    trace = poutine.trace(
        poutine.condition(
            model.pyro_model(coordinates),
            data={p.name: p.parameter.tensor.detach() for p in model.densities().trainable},
        )
    ).get_trace(*data, num_data=9)
    sites = {n for n, s in trace.nodes.items() if s["type"] == "sample"} - {"data", "y"}
    sites = {n for n in sites if not n.endswith((":prior", ":factor"))}
    if coordinates == "weight":
        assert sites == {"0.weight", "0.bias", "1.weight", "1.bias"}
        trace.compute_log_prob()
        for p in model.densities().trainable:
            density = p.log_density(p.parameter.tensor.detach(), {}).item()
            assert trace.nodes[p.name]["log_prob"].item() == pytest.approx(density, rel=1e-12)
        assert trace.nodes["1.bias"]["log_prob"].item() == 0
    else:
        each = {f"{i}.weight:{s}" for i in (0, 1) for s in ("left", "right", "spectrum")}
        assert sites == {"0.bias", *each}
    start = (
        spectral_start(model.densities().trainable, {})
        if coordinates == "spectral"
        else {p.name: p.parameter.tensor.detach() for p in model.densities().trainable}
    )
    value = model.log_joint(start, data, num_data=9, coordinates=coordinates)
    logits = net(data[0])
    fit = -9 * F.cross_entropy(logits, data[1]).item()
    rest = sum(
        p.log_density(p.parameter.tensor.detach(), {}).item() for p in model.densities().trainable
    )
    if coordinates == "weight":
        assert value.item() == pytest.approx(fit + rest, rel=1e-8)
    else:
        assert value.isfinite()


@pytest.mark.parametrize(
    ("coordinates", "change", "message"),
    [
        ("weight", {"0.weight": None}, "no value for the site 0.weight"),
        ("weight", {"0.weight": torch.zeros(3, 2)}, r"0.weight has shape \(4, 3\), not \(3, 2\)"),
        ("weight", {"x": torch.zeros(1)}, "no site x; there are rate, 0.weight"),
        ("spectral", {"rate": None}, "no value for the site rate"),
        ("spectral", {"0.weight:ratios": torch.zeros(3)}, r"ratios has shape \(2,\), not \(3,\)"),
        ("spectral", {"0.weight": torch.zeros(4, 3)}, "no site 0.weight; there are rate"),
    ],
)
def test_wrong_sites_raise(coordinates, change, message):
    model = model_of(LAWS["shared"], (4, 3))
    rate = {"rate": torch.tensor(2.0).double()}
    params = {"0.weight": draw((4, 3)), **rate}
    if coordinates == "spectral":
        params = spectral_start(model.densities().trainable, rate)
    params = {k: v for k, v in (params | change).items() if v is not None}
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        model.log_joint(params, batch((4, 3)), num_data=9, coordinates=coordinates)
    assert torch.equal(torch.get_rng_state(), state)


# Where a sampler starts.


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 2)
        self.up = nn.ConvTranspose2d(3, 2, 2, groups=1)
        self.head = nn.Linear(2 * 16, 3)
        self.low = nn.Linear(3, 3, bias=False).bfloat16()

    def forward(self, x):
        h = self.head(self.up(self.conv(x).tanh()).flatten(1))
        return self.low(h.bfloat16()).float()


START = {
    "ESD": htr.ESD(htr.Lomax(3.0)),
    "SingularValues": htr.SingularValues(htr.Exponential(1.0)),
    "MaxEigenvalue": htr.MaxEigenvalue(htr.Frechet(2.0)),
    "Entries": htr.Entries(htr.Normal()),
}


@pytest.mark.parametrize("frames", ["sampled", "held"])
@pytest.mark.parametrize("kind", list(START))
def test_start_reproduces_the_present_weights(kind, frames):
    torch.manual_seed(2)
    net = Images()
    model = htr.BayesianClassifier(net, htr.Priors(START[kind]))
    start = spectral_start(model.densities().trainable, {})
    program = model.pyro_model("spectral", frames=frames)
    x = torch.randn(5, 1, 4, 4)
    given = poutine.trace(poutine.condition(program, data=start))
    trace = given.get_trace(x, torch.zeros(5).long(), num_data=5)
    drawn = {n for n, s in trace.nodes.items() if s["type"] == "sample" and not s["is_observed"]}
    assert drawn == {"data"}
    assert any(n.endswith(":left") for n in trace.nodes) is (
        kind != "Entries" and frames == "sampled"
    )
    logits = (
        trace.nodes["y"]["fn"].base_dist.logits
        if hasattr(trace.nodes["y"]["fn"], "base_dist")
        else trace.nodes["y"]["fn"].logits
    )
    expected = net(x).log_softmax(1)
    torch.testing.assert_close(logits.log_softmax(1), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kind", list(START))
def test_start_is_exact_in_float64(kind):
    model = model_of(START[kind], (4, 3))
    x = torch.eye(3, dtype=torch.float64)
    seen = []
    model.net[0].register_forward_hook(lambda m, i, o: seen.append(o.detach().T))
    start = spectral_start(model.densities().trainable, {})
    model.log_joint(start, (x, torch.zeros(3).long()), num_data=3, coordinates="spectral")
    torch.testing.assert_close(seen[-1], model.net[0].weight.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "prior",
    [
        htr.ESD(htr.Powerlaw(2.0, 0.5)),
        htr.ESD(htr.TruncatedPowerlaw(1.0, 0.5, 0.501)),
        htr.SingularValues(htr.Frechet(2.0, 1.0, 0.4)),
        htr.MaxEigenvalue(htr.Powerlaw(2.0, 50.0)),
        htr.MaxEigenvalue(htr.TruncatedPowerlaw(2.0, 0.001, 0.002)),
        htr.Entries(htr.HalfCauchy()),
    ],
    ids=repr,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_start_outside_the_support_is_moved_inside(prior, dtype):
    model = model_of(prior, (4, 3), dtype)
    data = tuple(t.to(dtype) if t.is_floating_point() else t for t in batch((4, 3)))
    start = spectral_start(model.densities().trainable, {})
    assert all(v.dtype == dtype for v in start.values())
    assert model.log_joint(start, data, num_data=9, coordinates="spectral").isfinite()


def test_start_of_a_rank_deficient_matrix():
    for prior in (START["ESD"], START["MaxEigenvalue"]):
        model = model_of(prior, (4, 3))
        with torch.no_grad():
            model.net[0].weight[:, 2] = model.net[0].weight[:, 1]
        start = spectral_start(model.densities().trainable, {})
        value = model.log_joint(start, batch((4, 3)), num_data=9, coordinates="spectral")
        assert value.isfinite()


def test_bad_frames_raise():
    with pytest.raises(ValueError, match="frames='fixed' must be one of sampled, held"):
        model_of(START["ESD"], (4, 3)).pyro_model("spectral", frames="fixed")


def test_start_keeps_small_ratios():
    model = model_of(START["MaxEigenvalue"], (4, 3))
    with torch.no_grad():
        U, _, Vh = torch.linalg.svd(model.net[0].weight, full_matrices=False)
        model.net[0].weight.copy_(U @ torch.diag(torch.tensor([1.0, 1.0, 1e-4]).double()) @ Vh)
    ratios = spectral_start(model.densities().trainable, {})["0.weight:ratios"]
    expected = torch.tensor([1.0, 1e-8], dtype=torch.float64)
    torch.testing.assert_close(ratios, expected, rtol=1e-6, atol=0)
    assert (ratios < 1).all()


@pytest.mark.parametrize("coordinates", ["weight", "spectral"])
def test_frozen_matrices_inform_shared_hyperparameters(coordinates):
    """As under MAP: the density of the frozen one, given the rate, is a factor."""
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)).double()
    net[1].requires_grad_(False)
    model = htr.BayesianClassifier(net, htr.Priors(LAWS["shared"]))
    lam = torch.linalg.svdvals(net[1].weight.detach())[0].item() ** 2
    values = []
    for rate in (1.0, 2.5):
        hyper = {"rate": torch.tensor(rate).double()}
        start = spectral_start(model.densities().trainable, hyper)
        if coordinates == "weight":
            start = {"0.weight": net[0].weight.detach(), **hyper}
        value = model.log_joint(start, batch((2, 3)), num_data=9, coordinates=coordinates).item()
        own = torch.linalg.svdvals(net[0].weight.detach())[0].item() ** 2
        known = sum(stats.expon(scale=1 / rate).logpdf(v) for v in (lam, own))
        values.append(value - known - stats.gamma(4.0, scale=0.5).logpdf(rate))
    assert values[0] == pytest.approx(values[1], rel=1e-9)

"""The spectral guide on adapters: draws, divergence and gradients through the factors."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import bayes_htr as htr
from bayes_htr.errors import PriorError, SpectrumError
from bayes_htr.inference.guides import MeanField, SpectralGuide
from bayes_htr.priors.matrix_prior import spectrum_of
from tests.reference.adapters import Adapted, Loralib

LOMAX = htr.ESD(htr.Lomax(2.0, 0.7))
TOP = htr.MaxEigenvalue(htr.Frechet(2.0, 1.0))
GAMMA = htr.ESD(htr.Lomax(tail_index=htr.Gamma(9.0, 3.0)))
SCALE = htr.ESD(htr.Lomax(2.5, scale=htr.HalfCauchy(1.0)))
BOUNDED = htr.ESD(htr.Powerlaw(2.5, 0.01))


class AdaptedConvolution(nn.Module):
    """As peft builds the adapter of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.lora_A = nn.ModuleDict({"default": nn.Conv2d(4, 3, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Conv2d(3, 6, 1, bias=False)})
        self.scaling = {"default": 0.5}


LAYERS = {
    "tall": lambda: Adapted(5, 7),
    "wide": lambda: Adapted(7, 5),
    "loralib": lambda: Loralib(6, 5),
    "full rank": lambda: Adapted(3, 5),
    "convolution": AdaptedConvolution,
}


def layer(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LAYERS[kind]().double()


def model_of(kind, prior):
    pattern = "*lora_BA*"
    return htr.BayesianClassifier(layer(kind), htr.Priors({pattern: prior}))


def guide_of(model, epoch=0, **options):
    return SpectralGuide(SpectralGuide.densities_of(model.priors, model.net, epoch), **options)


def product(guide, values, scale):
    """`scale B A` as a matrix, at these values of the parameters."""
    (A,) = (v for name, v in values.items() if "lora_A" in name)
    (B,) = (v for name, v in values.items() if "lora_B" in name)
    return scale * B.flatten(1) @ A.flatten(1)


def scale_of(kind):
    return 0.5 if kind == "convolution" else 2.0


def weights(guide):
    return dict(zip(guide.names, guide.weights, strict=True))


@pytest.mark.parametrize("prior", [LOMAX, TOP, BOUNDED], ids=repr)
@pytest.mark.parametrize("kind", LAYERS)
def test_draws_keep_the_singular_vectors_of_the_product(kind, prior):
    guide = guide_of(model_of(kind, prior), init_scale=0.3)
    state = guide.states[0]
    P = product(guide, weights(guide), scale_of(kind)).detach()
    U, _, Vh = torch.linalg.svd(P, full_matrices=False)
    U, Vh = U[:, :3], Vh[:3]
    torch.manual_seed(0)
    sample = guide.rsample()
    S = U.mT @ product(guide, sample, scale_of(kind)).detach() @ Vh.mT
    rest = product(guide, sample, scale_of(kind)).detach() - U @ S.diagonal().diag() @ Vh
    assert rest.abs().max() < 1e-10
    torch.manual_seed(0)
    noise = torch.randn(3, dtype=torch.float64)
    lam_0 = spectrum_of(P)[:3]
    factors = state.law.factors(lam_0, state.spread, noise).detach()
    torch.testing.assert_close(S.diagonal().square(), lam_0 * factors.square())
    drawn = next(guide.spectrum_draws(1, seed=4))[state.name]
    generator = torch.Generator().manual_seed(4)
    matrix = product(guide, guide.draw(generator), scale_of(kind))
    torch.testing.assert_close(drawn.sort(descending=True).values, spectrum_of(matrix)[:3])


@pytest.mark.parametrize("prior", [LOMAX, TOP, LOMAX & TOP, GAMMA, SCALE, BOUNDED], ids=repr)
@pytest.mark.parametrize("kind", LAYERS)
def test_the_divergence_is_that_of_the_eigenvalues_of_the_product(kind, prior):
    """The law counts the three eigenvalues that are not always zero, and gradients follow them."""
    guide = guide_of(model_of(kind, prior), init_scale=0.3)
    sample = guide.rsample()
    leaves = list(guide.weights)
    found = torch.autograd.grad(guide.kl(sample), leaves, allow_unused=True)
    given = guide.hyperparameters.moments(sample, guide._conditional())
    total = guide.hyperparameters.kl(guide._conditional())
    state = guide.states[0]
    P = product(guide, weights(guide), scale_of(kind))
    total = total + state.law.kl(spectrum_of(P)[:3], state.spread, given)
    torch.testing.assert_close(guide.kl(sample), total, rtol=1e-9, atol=1e-9)
    if guide.hyperparameters.are_learnt:  # the gradient in the cache is an average over draws
        return
    expected = torch.autograd.grad(total, leaves, allow_unused=True)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
    guide.zero_grad()
    in_step = guide.kl_in_step(sample)
    if in_step.requires_grad:  # what is not cached
        in_step.backward()
    guide.add_known_gradient(1.0)
    for W, b in zip(leaves, expected, strict=True):
        if b is not None:
            torch.testing.assert_close(W.grad, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", ["tall", "wide", "convolution"])
def test_the_gradient_of_a_draw_is_that_at_fixed_singular_vectors(kind):
    guide = guide_of(model_of(kind, LOMAX), init_scale=0.3)
    torch.manual_seed(0)
    sample = guide.rsample()
    found = product(guide, sample, scale_of(kind))
    G = torch.randn(found.shape, dtype=torch.float64)
    A, B = (
        next(W for n, W in weights(guide).items() if letter in n) for letter in ("lora_A", "lora_B")
    )
    leaves = [A, B, guide.states[0].log_spread]
    slopes = torch.autograd.grad((found * G).sum(), leaves)
    P = product(guide, weights(guide), scale_of(kind)).detach()
    U, sigma, Vh = torch.linalg.svd(P, full_matrices=False)
    U, sigma, V = U[:, :3], sigma[:3], Vh[:3].mT
    g = torch.linalg.vector_norm(found.detach() @ V, dim=0) / sigma
    moved = scale_of(kind) * B.flatten(1) @ (A.flatten(1) + A.flatten(1) @ V @ (g - 1).diag() @ V.T)
    expected = torch.autograd.grad((moved * G).sum(), [A, B])
    for a, b in zip(slopes[:2], expected, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(slopes[2], (U.T @ G @ V).diagonal() * sigma * g * g.log())


def test_points_beside_spreads_are_scored_as_a_mode_scores_them():
    """Of the second eigenvalue, the divergence changes as the energy does."""
    model = model_of("tall", LOMAX)
    energies, divergences = [], []
    for factor in (1.0, 1.7):
        net = copy.deepcopy(model.net)
        A = net.lora_A["default"].weight
        P = 2 * net.lora_B["default"].weight.detach() @ A.detach()
        V = torch.linalg.svd(P, full_matrices=False).Vh[1:3].mT
        with torch.no_grad():
            A += (factor - 1) * A @ V[:, 1:] @ V[:, 1:].T
        moved = htr.BayesianClassifier(net, model.priors)
        guide = guide_of(moved, directions=1)
        divergences.append(guide.kl(guide.rsample()).item())
        energies.append(htr.bind(model.priors, net, refresh=htr.Exact())().item())
    assert divergences[1] - divergences[0] == pytest.approx(energies[1] - energies[0])
    assert abs(energies[1] - energies[0]) > 1e-3


@pytest.mark.parametrize("prior", [GAMMA, SCALE, htr.ESD(htr.Frechet(2.0)), TOP], ids=repr)
def test_the_energy_of_a_mode_counts_the_eigenvalues_that_are_not_always_zero(prior):
    """It is that of the compact matrix, with hyperparameters and laws that are infinite at 0."""
    net = layer("tall")
    P = 2 * (net.lora_B["default"].weight @ net.lora_A["default"].weight).detach()
    plain = nn.Linear(3, 7, bias=False).double()
    with torch.no_grad():
        plain.weight.copy_(P @ torch.linalg.svd(P, full_matrices=False).Vh[:3].mT)
    energy = htr.bind(htr.Priors({"lora_BA.default": prior}), net)
    expected = htr.bind(htr.Priors(prior), plain)
    for _ in range(2):  # the second is from what is cached
        assert energy().item() == pytest.approx(expected().item())
    found = htr.BayesianClassifier(net, energy.priors)
    mode = htr.fit(found, (torch.randn(8, 5).double(), torch.arange(8) % 7), method="map", epochs=0)
    assert mode.spectra()["lora_BA.default"].shape == (1, 3)


class _Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize("prior", [GAMMA, TOP], ids=repr)
def test_no_step_forms_the_product(prior):
    net = Adapted(90, 80, rank=2)
    guide = guide_of(htr.BayesianClassifier(net, htr.Priors({"*lora_BA*": prior})))
    with torch.no_grad():  # the frozen layer's weights are points as well, and large
        name = "base_layer.weight"
        assert name not in guide.names
    with _Largest() as largest:
        for _ in range(3):
            sample = guide.rsample()
            (guide.kl_in_step(sample) + sample["lora_A.default.weight"].sum()).backward()
            guide.add_known_gradient(1.0)
            guide.draw(torch.Generator())
            guide.centre()
    assert largest.numel <= 2 * 90


def test_spreads_follow_their_singular_vectors_and_a_state_is_rebuilt():
    model = model_of("wide", GAMMA)
    guide = guide_of(model, refresh=htr.Every(2))
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(guide.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        guide.kl(guide.rsample()).backward()
        optimizer.step()
    settings = json.loads(json.dumps(guide.settings()))
    rebuilt = SpectralGuide.from_state(model, settings, guide.state_dict())
    for other in (rebuilt, copy.deepcopy(guide), pickle.loads(pickle.dumps(guide))):
        a, b = (g.draw(torch.Generator().manual_seed(0)) for g in (guide, other))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    spread = guide.spectra()["lora_BA.default"].spread
    with torch.no_grad():
        guide.states[0].log_spread[0] += 1.0
        expected = guide.spectra()["lora_BA.default"]
        A = weights(guide)["lora_A.default.weight"]
        V = torch.linalg.svd(2 * weights(guide)["lora_B.default.weight"] @ A).Vh[:3].mT
        factor = (2 * expected.median.max() / expected.median.min()).sqrt()
        A += A @ V[:, 2:] @ V[:, 2:].T * (factor - 1)  # the smallest becomes the largest
    guide.refresh()
    found = guide.spectra()["lora_BA.default"]
    torch.testing.assert_close(found.spread, expected.spread)
    assert found.median.argmax() == expected.median.argmin()
    assert spread.shape == (3,)


def test_a_small_step_between_refreshes_is_a_small_change():
    """A plain QR decomposition changes signs where this entry does."""
    guide = guide_of(model_of("wide", LOMAX), init_scale=0.3, refresh=htr.Every(100))
    found = []
    for entry in (1e-7, -1e-7):
        with torch.no_grad():
            weights(guide)["lora_A.default.weight"][0, 0] = entry
        torch.manual_seed(0)
        sample = guide.rsample()
        found.append((product(guide, sample, 2.0).detach(), guide.kl(sample).detach()))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


REFUSED = [
    ("Entries", htr.Priors({"*lora_BA*": LOMAX & htr.Entries(htr.Normal())}), {}, "spectrum alone"),
    (
        "factor",
        htr.Priors({"*lora_BA*": LOMAX, "*lora_A*": htr.Entries(htr.Normal())}),
        {},
        "lora_A.*twice",
    ),
    ("full", htr.Priors({"*lora_BA*": LOMAX}), {"full_gradient": True}, "full_gradient=True"),
    (
        "parts",
        htr.Priors({"*lora_BA*": LOMAX}, matrices={"*lora_BA*": {"parts": ["a", "b"]}}),
        {},
        "2 matrices",
    ),
]


@pytest.mark.parametrize(
    ("priors", "options", "match"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_what_it_refuses(priors, options, match):
    with torch.random.fork_rng():
        net = Adapted(5, 6)
    with pytest.raises(PriorError, match=rf"lora_BA\.default.*{match}"):
        guide_of(htr.BayesianClassifier(net, priors), **options)


def test_it_refuses_a_frozen_factor_a_high_rank_and_a_zero_product():
    priors = htr.Priors({"*lora_BA*": LOMAX})
    net = Adapted(5, 6)
    net.lora_A.requires_grad_(False)
    with pytest.raises(PriorError, match=r"lora_A\.default\.weight is frozen"):
        guide_of(htr.BayesianClassifier(net, priors))
    with pytest.raises(PriorError, match=r"2 x 5 and rank 3 .* rank 2 or less"):
        guide_of(htr.BayesianClassifier(Adapted(5, 2), priors))
    net = Adapted(5, 6)
    nn.init.zeros_(net.lora_B["default"].weight)
    with pytest.raises(SpectrumError, match=r"is zero, as adapters start.*init="):
        guide_of(htr.BayesianClassifier(net, priors)).rsample()


@pytest.mark.parametrize("kind", ["weight", "spectral"])
def test_other_posteriors_refuse_an_adapter_and_name_the_guide(kind):
    model = model_of("tall", LOMAX)
    with pytest.raises(PriorError, match=r"lora_BA\.default is computed .*guide='spectral'"):
        model.pyro_model(kind)
    with pytest.raises(PriorError, match="guide='spectral'"):
        MeanField.densities_of(model.priors, model.net, 0)
    data = torch.randn(8, 5).double(), torch.arange(8) % 7
    with pytest.raises(ValueError, match=r"lora_BA\.default .*noise='shared'"):
        htr.fit(model, data, method=htr.SVI(noise="example"), epochs=1)


def test_a_fit_is_saved_loaded_and_resumed(tmp_path):
    torch.manual_seed(0)
    data = torch.randn(64, 5), torch.arange(64) % 3
    net = nn.Sequential(Adapted(5, 6), nn.Tanh(), nn.Linear(6, 3))
    priors = htr.Priors({"*lora_BA*": GAMMA, "2.bias": htr.Entries(htr.Normal())})
    model = htr.BayesianClassifier(net, priors)
    method = htr.SVI(lr=0.02, scheduler=None)
    whole = htr.fit(model, data, method=method, epochs=4, out=tmp_path / "whole")
    htr.fit(model, data, method=method, epochs=2, out=tmp_path / "parts")
    resumed = htr.fit(model, data, method=method, epochs=4, out=tmp_path / "parts", resume=True)
    loaded = htr.load(tmp_path / "whole", net)
    name = "0.lora_BA.default"
    (tail_index,) = model.priors.resolve(net)[3].hyperparameters
    expected = whole.spectra(samples=20)
    assert expected[name].shape == (20, 3)
    assert expected[name].std(0).min() > 0
    for other in (resumed, loaded):
        found = other.spectra(samples=20)
        torch.testing.assert_close(found[name], expected[name])
        assert other.evaluate(data)["nll"] == pytest.approx(whole.evaluate(data)["nll"])
        assert other.guide.hyperpriors.keys() == {tail_index}
    posterior = whole.guide._conditional(current=True)[tail_index]
    assert float(posterior.concentration) == 9.0 + 3  # three eigenvalues, not five

"""Networks whose parameters are no plain weight matrices: embeddings, norms, batch statistics."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoNormal
from torch import nn

import bayes_htr as htr
from bayes_htr.analysis.weights import module_source

LOMAX = htr.Priors(htr.ESD(htr.Lomax(2.0)))


class Words(nn.Module):
    """Mean embeddings of five words, three classes."""

    def __init__(self, **options):
        super().__init__()
        self.embedding = nn.Embedding(12, 4, **options)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.embedding(x).mean(1))


@pytest.fixture
def words():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 12, (40, 5), generator=generator)
    return x, torch.randint(0, 3, (40,), generator=generator)


def fitted(net, priors, data, method, **more):
    return htr.fit(htr.BayesianClassifier(net, priors), data, method=method, **more)


def test_sparse_gradients_take_that_of_the_prior():
    net, twin = Words(sparse=True), Words()
    twin.load_state_dict(net.state_dict())
    x = torch.randint(0, 12, (6, 5))
    for each in (net, twin):
        each(x).square().sum().backward()
        htr.bind(LOMAX, each, refresh=htr.Exact()).backward(0.5)
    found = net.embedding.weight.grad.to_dense()
    torch.testing.assert_close(found, twin.embedding.weight.grad)


def test_sparse_gradients_in_fit(words):
    sparse = fitted(Words(sparse=True), LOMAX, words, htr.MAP(optimizer=torch.optim.SGD), epochs=2)
    assert sparse.history[1]["loss"] < sparse.history[0]["loss"]
    with pytest.raises(ValueError, match="embedding has sparse gradients"):
        fitted(Words(sparse=True), LOMAX, words, htr.SVI(), epochs=1)


@pytest.mark.parametrize("guide", ["meanfield", "lowrank", AutoNormal], ids=str)
def test_guides_over_weights_refuse_padding(words, guide, tmp_path):
    net, entries = Words(padding_idx=0), htr.Priors({"*": htr.Entries(htr.Normal(0.0, 1.0))})
    with pytest.raises(ValueError, match=r"embedding.weight has padding_idx=0.*guide='spectral'"):
        fitted(net, entries, words, htr.SVI(guide=guide), epochs=1, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    net.embedding.weight.requires_grad_(False)
    assert fitted(net, entries, words, htr.SVI(guide=guide), epochs=1).history


def test_padding_stays_zero_in_draws_of_the_spectral_guide(words):
    posterior = fitted(Words(padding_idx=0), LOMAX, words, htr.SVI(lr=0.01), epochs=2)
    for draw in posterior._guide.draws(3, 0):
        assert not draw["embedding.weight"][0].any()
        assert draw["embedding.weight"][1:].any()


def test_parameters_of_norms_are_no_matrices():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.LayerNorm([2, 4, 4]), nn.Flatten(), nn.Linear(32, 3))
    data = torch.randn(16, 1, 6, 6), torch.arange(16) % 3
    for method in (htr.MAP(), htr.SVI()):
        spectra = fitted(net, LOMAX, data, method, epochs=1).spectra()
        assert list(spectra) == ["0.weight", "3.weight"]
    source = module_source(net)
    assert [weight.name for weight in source.weights] == ["0.weight", "3.weight"]
    assert "normalisation" in source.skipped["1.weight"]
    assert list(htr.bind(htr.Priors({"*": htr.Entries(htr.Normal(0.0, 1.0))}), net).terms()) == [
        *("0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias")
    ]
    with pytest.raises(htr.PriorError, match=r"'1\.weight' is a vector"):
        htr.bind(htr.Priors({"1.weight": htr.ESD(htr.Lomax(2.0))}), net)


@pytest.mark.parametrize("priors", [{}, {"*": htr.Entries(htr.Normal(0.0, 0.3))}], ids=str)
def test_a_draw_for_each_example_where_no_spectrum_has_a_law(network, priors):
    data = torch.randn(32, 6), torch.arange(32) % 3
    net, priors = network(), htr.Priors(priors)
    each = fitted(net, priors, data, htr.SVI(noise="example"), epochs=2)
    shared = fitted(net, priors, data, htr.SVI(), epochs=2)
    assert each.history[-1]["loss"] == pytest.approx(shared.history[-1]["loss"])


def test_a_module_changed_after_bind_is_named(network):
    net = network()
    energy = htr.bind(LOMAX, net)
    nn.utils.parametrizations.weight_norm(net.fc1)
    with pytest.raises(htr.PriorError, match=r"no parameter 'fc1.weight' any more; bind"):
        energy()


@pytest.mark.parametrize("guide", ["spectral", "meanfield"])
def test_hyperparameters_are_learnt_at_a_rate_of_their_own(network, guide):
    """A rate that hardly moves the weights finds the scale that they have."""
    data = torch.randn(64, 6), torch.arange(64) % 3
    priors = htr.Priors({"fc1.weight": htr.Entries(htr.Normal(0.0, htr.LogNormal(2.0, 1.0)))})
    posterior = fitted(
        network(),
        priors,
        data,
        htr.SVI(guide=guide, lr=1e-5, scheduler=None),
        epochs=150,
        batch_size=64,
    )
    drawn = posterior.hyperparameter_draws(200)["fc1.weight:Entries.scale"]
    (scale,) = (w.square().mean().sqrt() for w in [posterior.network().fc1.weight])
    assert drawn.median().item() == pytest.approx(scale.item(), rel=0.25)


def test_a_guide_for_padding_that_is_no_noise(words):
    """Flat, the embedding is a point under guides over the weights; AutoDelta draws points only."""
    flat = htr.Priors({"out.*": htr.Entries(htr.Normal(0.0, 1.0))})
    entries = htr.Priors({"*": htr.Entries(htr.Normal(0.0, 1.0))})
    for priors, guide in ((flat, "meanfield"), (entries, AutoDelta)):
        posterior = fitted(Words(padding_idx=0), priors, words, htr.SVI(guide=guide), epochs=1)
        (draw,) = posterior._guide.draws(1, 0)
        found = draw.get("embedding.weight", posterior.network().embedding.weight)
        assert not found[0].any()


@pytest.mark.parametrize(
    "prior",
    [
        htr.MaxEigenvalue(htr.Frechet(2.0, htr.LogNormal(3.0, 2.0))),
        htr.ESD(htr.Lomax(2.0, htr.LogNormal(-3.0, 2.0))),
    ],
    ids=repr,
)
def test_held_gradients_follow_hyperparameters_too(network, prior):
    """At a rate at which the weights hardly move, what is held is near what is exact."""
    data, kl = (torch.randn(64, 6), torch.arange(64) % 3), []
    for refresh in (htr.Drift(), htr.Exact()):
        method = htr.SVI(lr=1e-4, refresh=refresh)
        posterior = fitted(network(), htr.Priors(prior), data, method, epochs=60)
        kl.append(posterior.history[-1]["kl"])
    assert kl[0] == pytest.approx(kl[1], rel=0.02, abs=0.2)


@pytest.mark.parametrize(
    "given",
    [
        {"optimizer": lambda ps, lr: torch.optim.Adam([p for p in ps if p.requires_grad], lr=lr)},
        {"optimizer": partial(torch.optim.SGD, momentum=0.9)},
        {"scheduler": lambda o: torch.optim.lr_scheduler.LambdaLR(o, [lambda epoch: 0.5**epoch])},
    ],
    ids=["list", "sgd", "one group"],
)
def test_optimisers_and_schedules_of_ones_own_beside_hyperparameters(network, given):
    data = torch.randn(64, 6), torch.arange(64) % 3
    priors = htr.Priors({"*": htr.Entries(htr.Normal(0.0, htr.LogNormal(0.0, 1.0)))})
    posterior = fitted(network(), priors, data, htr.SVI(guide="meanfield", **given), epochs=3)
    assert np.isfinite(posterior.history[-1]["loss"])

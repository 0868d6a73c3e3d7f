"""A posterior with a guide, by stored draws whose answers can be written down."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

import bayes_htr as htr
from bayes_htr.inference.guides import Samples

TAIL = "conv.weight:ESD.tail_index"


def log_probs_of(draws, net, x, index):
    """`(len(index), N, C)`: the network's at each draw, in evaluation mode."""
    net = copy.deepcopy(net).eval()
    found = []
    for i in index:
        weights = {n: v[i] for n, v in draws.items() if n != TAIL}
        found.append(functional_call(net, weights, (x,)).detach().double().log_softmax(1))
    return torch.stack(found)


def test_predictions_average_the_draws(sampled, draws, network, data):
    each = log_probs_of(draws, network(), data[0], range(12)).exp()
    prediction = sampled.predict(data[0], samples=12)
    mean = each.mean(0)
    torch.testing.assert_close(prediction.probs.double(), mean, rtol=1e-5, atol=1e-7)
    entropies = torch.special.entr(each).sum(-1).mean(0)
    torch.testing.assert_close(prediction.aleatoric.double(), entropies, rtol=1e-4, atol=1e-6)
    information = torch.special.entr(mean).sum(1) - entropies
    torch.testing.assert_close(
        prediction.mutual_information.double(), information, rtol=1e-3, atol=1e-6
    )
    assert bool((prediction.mutual_information > 1e-4).all())
    total = prediction.aleatoric + prediction.mutual_information
    torch.testing.assert_close(total, prediction.entropy)


def test_seed_decides_the_draws(sampled, data):
    def predict(seed):  # more draws than there are: some are taken again, at random
        return sampled.predict(data[0], samples=20, seed=seed).log_probs

    state = torch.get_rng_state()
    assert torch.equal(predict(0), predict(0))
    assert not torch.equal(predict(0), predict(1))
    assert torch.equal(torch.get_rng_state(), state)
    scores = [sampled.evaluate(data, samples=20, seed=s)["nll"] for s in (0, 0, 1)]
    assert scores[0] == scores[1] != scores[2]


@pytest.mark.parametrize("held", [0, 300, 2**28])
def test_a_loader_that_shuffles_mixes_no_examples(sampled, data, monkeypatch, held):
    """Each draw is one pass; a loader gives each pass another order."""
    monkeypatch.setattr("bayes_htr.posterior.prediction._CHUNK_BYTES", held)
    loader = DataLoader(TensorDataset(*data), 7, shuffle=True)
    expected = sampled.evaluate(data, samples=12)
    assert sampled.evaluate(loader, samples=np.int64(12), seed=np.int64(0)) == pytest.approx(
        expected, rel=1e-5
    )


def test_network_is_the_centre(sampled, draws):
    net = sampled.network()
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.detach(), draws[name].mean(0))
    assert not any(m.training for m in net.modules())
    assert sampled.hyperparameters() == {TAIL: pytest.approx(draws[TAIL].mean().item())}
    assert torch.equal(sampled.hyperparameter_draws(12)[TAIL], draws[TAIL])
    u = sampled.unconstrained_hyperparameters()[TAIL]
    assert u.exp().item() == pytest.approx(draws[TAIL].mean().item(), rel=1e-5)


def test_drawing_changes_nothing(sampled, data):
    before = copy.deepcopy(sampled.network().state_dict())
    sampled.predict(data[0], samples=5)
    sampled.spectra(5)
    for name, value in sampled.network().state_dict().items():
        assert torch.equal(value, before[name]), name


def test_spectra_of_draws(sampled, draws):
    spectra = sampled.spectra(12)
    for i in range(12):
        W = draws["conv.weight"][i].reshape(5, 9).double().numpy()
        expected = np.linalg.svd(W, compute_uv=False) ** 2
        np.testing.assert_allclose(spectra["conv.weight"][i], expected, rtol=1e-4)
    assert torch.equal(spectra.hyperparameters[TAIL], draws[TAIL])
    assert spectra["fc.weight"].shape == (12, 3)
    assert sampled.spectra(4)["fc.weight"].shape == (4, 3)


def test_a_fit_starts_from_a_sampled_posterior(sampled, network, data):
    model = htr.BayesianClassifier(network(), sampled.priors)
    fitted = htr.fit(model, data, method=htr.MAP(), epochs=0, init=sampled)
    for name, value in sampled.network().state_dict().items():
        assert torch.equal(fitted.network().state_dict()[name], value), name


def test_fit_passes_a_methods_guide_on(network, data, draws, tmp_path):
    from bayes_htr.inference import Fitted

    class Stored(htr.MAP):
        def prepare(self, problem):
            fitted = Fitted(problem.net, {}, [], Samples(draws))
            return SimpleNamespace(run=lambda folder, checkpoint: fitted)

    model = htr.BayesianClassifier(
        network(), htr.Priors(htr.ESD(htr.Lomax(tail_index=htr.Gamma(9.0, 3.0))))
    )
    posterior = htr.fit(model, data, method=Stored(), epochs=1, out=tmp_path / "run")
    assert isinstance(posterior.guide, Samples)
    loaded = htr.load(tmp_path / "run", network())
    expected = posterior.predict(data[0], samples=5).log_probs
    assert torch.equal(loaded.predict(data[0], samples=5).log_probs, expected)
    resumed = htr.fit(
        model, data, method=Stored(), epochs=1, out=tmp_path / "run", resume=True
    )  # the guide in the configuration makes it no other run
    assert torch.equal(resumed.predict(data[0], samples=5).log_probs, expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("fc9.weight", torch.zeros(2, 3), "no parameter or hyperparameter fc9.weight"),
        ("fc.bias", torch.zeros(2, 4), r"fc.bias has shape \(3,\), not \(4,\)"),
        ("fc.bias", torch.full((2, 3), float("nan")), "fc.bias is not finite"),
        (TAIL, torch.ones(2, 2), r"has shape \(\), not \(2,\)"),
    ],
)
def test_a_guide_of_another_network(sampled, network, name, value, message):
    with pytest.raises(ValueError, match=message):
        htr.Posterior(network(), sampled.priors, guide=Samples({name: value}))


@pytest.mark.parametrize("seed", [-1, 0.5, True])
def test_bad_seed(sampled, data, seed):
    with pytest.raises(ValueError, match=f"seed={seed}"):
        sampled.predict(data[0], seed=seed)


NATURAL = {
    "Lomax": htr.ESD(htr.Lomax(2.0, 0.5)),
    "largest": htr.MaxEigenvalue(htr.Frechet(2.0, 1.0)),
    "lower end": htr.ESD(htr.Powerlaw(2.5, 1e-3)),
    "tail index": htr.ESD(htr.Lomax(tail_index=htr.Gamma(9.0, 3.0))),
    "scale": htr.ESD(htr.Lomax(2.0, scale=htr.LogNormal(0.0, 0.5))),
}


@pytest.mark.parametrize("directions", [None, 3])
@pytest.mark.parametrize("name", NATURAL)
def test_spectra_in_closed_form_are_those_of_the_drawn_weights(name, directions):
    """Eigenvalues and hyperparameters of the spectral guide, draw by draw."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [torch.nn.Linear(6, 9), torch.nn.Linear(9, 5), torch.nn.Linear(5, 3)]
        net = torch.nn.Sequential(*layers).double()
        x, y = torch.randn(30, 6, dtype=torch.float64), torch.arange(30) % 3
    net[2].weight.requires_grad_(False)  # a point: it has a prior, and no law
    priors = htr.Priors({"[02].weight": NATURAL[name]})
    method = htr.SVI(guide="spectral", lr=0.02, directions=directions)
    model = htr.BayesianClassifier(net, priors)
    posterior = htr.fit(model, (x, y), method=method, epochs=3, progress=False)
    spectra = posterior.spectra(7, seed=3)
    draws = list(posterior.guide.draws(7, 3))
    for matrix in ("0.weight", "1.weight", "2.weight"):
        for row, draw in zip(spectra[matrix], draws, strict=True):
            W = draw.get(matrix, posterior.network().get_parameter(matrix))
            torch.testing.assert_close(row, htr.spectrum(W.detach()), rtol=1e-9, atol=1e-12)
    for latent, values in spectra.hyperparameters.items():
        assert values.tolist() == [float(draw[latent]) for draw in draws]
    assert len(spectra.hyperparameters) == (name in ("scale", "tail index"))


def test_spectra_need_no_decomposition_for_each_draw(monkeypatch):
    """Of 50 draws, three matrices are decomposed once each, for those that are points."""
    net = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.ReLU(), torch.nn.Linear(9, 3))
    model = htr.BayesianClassifier(net, htr.Priors({"*.weight": NATURAL["Lomax"]}))
    x, y = torch.randn(30, 6), torch.arange(30) % 3
    posterior = htr.fit(model, (x, y), epochs=1, progress=False)
    calls = []
    svdvals = torch.linalg.svdvals
    monkeypatch.setattr(torch.linalg, "svdvals", lambda W: calls.append(W) or svdvals(W))
    assert posterior.spectra(50)["0.weight"].shape == (50, 6)
    assert len(calls) == 2

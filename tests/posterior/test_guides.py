"""A posterior with a guide, by stored draws whose answers can be written down."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

import bayes_htr as htr
from bayes_htr.inference import Batches
from bayes_htr.inference.guides import Samples
from bayes_htr.posterior.evaluation import auroc, ood_scores
from bayes_htr.posterior.posterior import _chunks

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
    monkeypatch.setattr("bayes_htr.posterior.posterior._HELD", held)
    loader = DataLoader(TensorDataset(*data), 7, shuffle=True)
    expected = sampled.evaluate(data, samples=12)
    assert sampled.evaluate(loader, samples=np.int64(12), seed=np.int64(0)) == pytest.approx(
        expected, rel=1e-5
    )


def test_no_more_batches_are_held_than_needed(data):
    batches = Batches(DataLoader(TensorDataset(*data), 7))  # 448 bytes each, the last 256
    found = [len(chunk) for chunk in _chunks(batches, 1000)]
    assert found == [3, 3, 3]
    assert [len(chunk) for chunk in _chunks(batches, 0)] == [1] * 9


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


# Saving


SCRIPT = """
import runpy, sys, torch
import bayes_htr as htr

torch.set_num_threads(1)
conftest, folder, x, out = sys.argv[1:]
posterior = htr.load(folder, runpy.run_path(conftest)["make_network"]())
log_probs = posterior.predict(torch.load(x), samples=20, seed=5).log_probs
torch.save((log_probs, posterior.hyperparameters(), repr(posterior)), out)
"""


@pytest.fixture
def saved(sampled, tmp_path):
    sampled.save(tmp_path / "run")
    return tmp_path / "run"


def test_a_new_process_loads_the_same(sampled, saved, data, tmp_path):
    torch.save(data[0], tmp_path / "x.pt")
    conftest = Path(__file__).with_name("conftest.py")
    arguments = [conftest, saved, tmp_path / "x.pt", tmp_path / "out.pt"]
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    subprocess.run(command, check=True, cwd=Path(htr.__file__).parents[1], timeout=120)
    log_probs, hyperparameters, shown = torch.load(tmp_path / "out.pt")
    assert torch.equal(log_probs, sampled.predict(data[0], samples=20, seed=5).log_probs)
    assert hyperparameters == sampled.hyperparameters()
    assert shown == repr(sampled)


def test_load_restores_everything(sampled, saved, network):
    loaded = htr.load(saved, network())
    assert loaded.config == sampled.config
    loaded.save(saved.parent / "again")
    for file in saved.iterdir():
        assert (saved.parent / "again" / file.name).read_bytes() == file.read_bytes(), file.name
    assert (saved / "guide.safetensors").exists()


@pytest.mark.parametrize("part", [None, 0.0, 0.5, 0.99])
def test_truncated_guide(saved, network, part):
    file = saved / "guide.safetensors"
    content = file.read_bytes()
    file.unlink()
    if part is not None:
        file.write_bytes(content[: int(part * len(content))])
    with pytest.raises(htr.CheckpointError, match=r"guide\.safetensors"):
        htr.load(saved, network())


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "nonsense"},
        {"kind": ["samples"]},
        {"settings": {}},
        {"settings": {"names": ["fc9.weight"]}},
        {"settings": {"names": ["fc.bias", "fc.weight"]}},
    ],
    ids=str,
)
def test_foreign_guide(saved, network, change):
    config = json.loads((saved / "config.json").read_text())
    config["guide"] |= change
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(htr.CheckpointError, match=r"guide\.safetensors .* do not fit"):
        htr.load(saved, network())


def test_guide_that_is_not_finite(saved, network):
    state = load_file(saved / "guide.safetensors")
    state["draws0"][0] = float("inf")
    save_file(state, saved / "guide.safetensors")
    with pytest.raises(htr.CheckpointError, match="not finite"):
        htr.load(saved, network())


def test_a_pickle_in_place_of_a_guide_does_not_run(saved, network, tmp_path):
    marker = tmp_path / "ran"

    class Code:
        def __reduce__(self):
            return (Path.touch, (marker,))

    (saved / "guide.safetensors").write_bytes(pickle.dumps(Code()))
    with pytest.raises(htr.CheckpointError, match="cannot be read"):
        htr.load(saved, network())
    assert not marker.exists()


@pytest.mark.parametrize("how", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_copies(sampled, data, how):
    copied = how(sampled)
    expected = sampled.predict(data[0], samples=20).log_probs
    assert torch.equal(copied.predict(data[0], samples=20).log_probs, expected)
    again = how(sampled.spectra(3))
    assert torch.equal(again["fc.weight"], sampled.spectra(3)["fc.weight"])
    assert str(again.check("conv.weight")) == str(sampled.spectra(3).check("conv.weight"))


# Examples outside the distribution


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("p", "n"), [(1, 1), (40, 7), (300, 500)])
def test_auroc(ties, p, n):
    rng = np.random.default_rng(p)
    scores = rng.normal(size=p + n) + np.repeat([0.5, 0.0], [p, n])
    scores = scores.round(0 if ties else 12)
    expected = roc_auc_score(np.repeat([1, 0], [p, n]), scores)
    found = auroc(torch.as_tensor(scores[:p]), torch.as_tensor(scores[p:]))
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("form", ["inputs", "pair", "loader"])
def test_ood_scores(sampled, data, form):
    x = 3 * torch.randn(25, 1, 4, 4, generator=torch.Generator().manual_seed(8))
    y = torch.arange(25) + 90  # classes that the network does not know
    ood = {"inputs": x, "pair": (x, y), "loader": DataLoader(TensorDataset(x, y), 4)}[form]
    found = sampled.evaluate(data, samples=12, ood=ood)
    assert {k: v for k, v in found.items() if "ood" not in k} == sampled.evaluate(data, samples=12)
    inside, outside = (sampled.predict(z, samples=12) for z in (data[0], x))
    labels = np.repeat([0, 1], [60, 25])
    scores = {
        "entropy": lambda p: p.entropy,
        "mutual_information": lambda p: p.mutual_information,
        "confidence": lambda p: -p.probs.amax(1),
    }
    for name, score in scores.items():
        expected = roc_auc_score(labels, torch.cat([score(inside), score(outside)]))
        assert found[f"ood_auroc_{name}"] == pytest.approx(expected, abs=1e-3), name
    assert found["ood_auroc_mutual_information"] > 0.6


def test_a_point_mass_has_no_mutual_information(posterior, data):
    prediction = posterior.predict(data[0])
    assert ood_scores(prediction, prediction)["ood_auroc_mutual_information"] == 0.5
    torch.testing.assert_close(prediction.aleatoric, prediction.entropy)


def test_ood_data_that_do_not_fit(sampled, data):
    with pytest.raises(htr.DataError, match="ood: the network does not take"):
        sampled.evaluate(data, ood=torch.zeros(3, 1, 5, 5))


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

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import bayes_htr as htr

SCRIPT = """
import runpy, sys, torch
import bayes_htr as htr

torch.set_num_threads(1)
conftest, folder, x, out = sys.argv[1:]
posterior = htr.load(folder, runpy.run_path(conftest)["make_network"]())
log_probs = posterior.predict(torch.load(x)).log_probs
torch.save((log_probs, posterior.hyperparameters(), posterior.history), out)
"""


@pytest.mark.long
@pytest.mark.parametrize("written_by", ["save", "fit"])
def test_a_new_process_loads_the_same(posterior, network, data, tmp_path, written_by):
    run = tmp_path / "a" / "run"
    if written_by == "save":
        posterior.save(run)
    else:
        model = htr.BayesianClassifier(network(), posterior.priors)
        posterior = htr.fit(model, data, method=htr.MAP(), epochs=2, out=run)
    torch.save(data[0], tmp_path / "x.pt")
    conftest = Path(__file__).with_name("conftest.py")
    arguments = [conftest, run, tmp_path / "x.pt", tmp_path / "out.pt"]
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    subprocess.run(command, check=True, cwd=Path(htr.__file__).parents[1], timeout=120)
    log_probs, hyperparameters, history = torch.load(tmp_path / "out.pt")
    assert torch.equal(log_probs, posterior.predict(data[0]).log_probs)
    assert hyperparameters == posterior.hyperparameters()
    assert history == posterior.history


@pytest.fixture
def saved(posterior, tmp_path):
    posterior.save(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def unchecked(saved):
    """A posterior that an earlier version has saved, without digests."""
    (saved / "digests.json").unlink()
    return saved


def test_load_restores_everything(posterior, saved, network):
    net = network()
    before = copy.deepcopy(net.state_dict())
    loaded = htr.load(saved, net)
    assert loaded.priors == posterior.priors
    assert loaded.config == posterior.config
    assert repr(loaded) == repr(posterior)
    for name, value in loaded.network().state_dict().items():
        assert torch.equal(value, posterior.network().state_dict()[name]), name
    for name, value in net.state_dict().items():  # the given network is not touched
        assert torch.equal(value, before[name]), name
    loaded.save(saved.parent / "again")
    names = (
        *("config.json", "metrics.jsonl", "digests.json"),
        *("weights.safetensors", "spectra.safetensors"),
    )
    assert {p.name for p in saved.iterdir()} == set(names)
    for name in names:
        assert (saved.parent / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_a_posterior_without_a_fit_is_saved(network, tmp_path):
    htr.Posterior(network(), htr.Priors({})).save(tmp_path / "run")
    loaded = htr.load(tmp_path / "run", network())
    assert (loaded.priors, loaded.history, loaded.config) == (htr.Priors({}), [], {})


def test_tied_weights_are_saved(tmp_path):
    def tied():
        net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        net[1].weight = net[0].weight
        return net

    posterior = htr.Posterior(tied(), htr.Priors({}))
    posterior.save(tmp_path / "run")
    net = htr.load(tmp_path / "run", tied()).network()
    assert torch.equal(net[1].weight, posterior.network()[0].weight)


def test_used_folder_is_refused(posterior, saved):
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    with pytest.raises(htr.OutputError, match="is not empty; pass overwrite=True to replace"):
        posterior.save(saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before


def test_a_run_is_overwritten_where_that_is_said(posterior, saved, network):
    other = htr.Posterior(network(), htr.Priors({}))
    other.save(saved, overwrite=True)
    again = htr.load(saved, network())
    for a, b in zip(other.network().parameters(), again.network().parameters(), strict=True):
        assert torch.equal(a, b)
    assert again.priors == htr.Priors({})
    assert [p.name for p in saved.parent.iterdir() if p.name.startswith(".")] == []
    new = saved.parent / "new"
    other.save(new, overwrite=True)
    assert htr.load(new, network()).priors == htr.Priors({})


def test_nothing_but_one_run_is_overwritten(posterior, saved):
    (saved / "notes.txt").write_text("mine")
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    with pytest.raises(htr.OutputError, match=r"more than one run \(notes\.txt\).*another folder"):
        posterior.save(saved, overwrite=True)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before


def test_a_run_stays_where_its_successor_cannot_be_written(posterior, saved, monkeypatch):
    before = {p.name: p.read_bytes() for p in saved.iterdir()}

    def full(self, folder):
        raise htr.OutputError("the disk is full")

    monkeypatch.setattr(htr.Posterior, "write", full)
    with pytest.raises(htr.OutputError, match="the disk is full"):
        posterior.save(saved, overwrite=True)
    assert {p.name: p.read_bytes() for p in saved.iterdir() if p.is_file()} == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json"])
@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_truncated_files(unchecked, network, name, part):
    file = unchecked / name
    file.write_bytes(file.read_bytes()[: int(part * file.stat().st_size)])
    with pytest.raises(htr.CheckpointError, match=name.replace(".", r"\.")):
        htr.load(unchecked, network())


@pytest.mark.parametrize(
    "content",
    [
        b'{"format": 1}',
        b'{"format": 1, "priors": {"type": "Nonsense"}}',
        b'{"format": 1, "priors": 3}',
    ],
    ids=repr,
)
def test_foreign_priors(unchecked, network, content):
    (unchecked / "config.json").write_bytes(content)
    with pytest.raises(htr.CheckpointError, match=r"config\.json holds no priors"):
        htr.load(unchecked, network())


@pytest.mark.parametrize("method", [{"name": 3}, {"name": None}, "map", [], 7], ids=repr)
def test_foreign_method(unchecked, network, method):
    config = json.loads((unchecked / "config.json").read_text())
    (unchecked / "config.json").write_text(json.dumps(config | {"method": method}))
    with pytest.raises(htr.CheckpointError, match=r"config\.json holds no inference method"):
        htr.load(unchecked, network())


@pytest.mark.parametrize("row", ["[]", "3", '{"loss": "low"}', '{"loss": null}', "[" * 5000])
def test_foreign_metrics(unchecked, network, row):
    with (unchecked / "metrics.jsonl").open("a") as file:
        file.write(row + "\n")
    with pytest.raises(htr.CheckpointError, match=r"metrics\.jsonl cannot be read"):
        htr.load(unchecked, network())


def test_truncated_metrics(unchecked, network):
    file = unchecked / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(htr.CheckpointError, match=r"metrics\.jsonl cannot be read"):
        htr.load(unchecked, network())


def test_a_pickle_in_place_of_weights_does_not_run(unchecked, network, tmp_path):
    marker = tmp_path / "ran"

    class Code:
        def __reduce__(self):
            return (Path.touch, (marker,))

    (unchecked / "weights.safetensors").write_bytes(pickle.dumps(Code()))
    with pytest.raises(htr.CheckpointError, match="cannot be read"):
        htr.load(unchecked, network())
    assert not marker.exists()


def test_weights_that_are_not_finite(unchecked, network):
    weights = load_file(unchecked / "weights.safetensors")
    weights["fc.weight"][0, 0] = float("nan")
    save_file(weights, unchecked / "weights.safetensors")
    with pytest.raises(htr.SpectrumError, match=r"fc.weight holds 1 entries"):
        htr.load(unchecked, network())


@pytest.mark.parametrize(
    "net", [nn.Linear(80, 3), nn.Sequential(nn.Conv2d(1, 5, 3))], ids=["linear", "conv"]
)
def test_another_network(saved, net):
    with pytest.raises(htr.CheckpointError, match=r"does not fit the network (Linear|Sequential)"):
        htr.load(saved, net)


def test_an_unfinished_run(network, data, tmp_path):
    def fail(event):
        raise RuntimeError("power cut")

    model = htr.BayesianClassifier(network(), htr.Priors({}))
    with pytest.raises(RuntimeError, match="power cut"):
        htr.fit(model, data, method=htr.MAP(), epochs=3, out=tmp_path / "run", callbacks=[fail])
    with pytest.raises(htr.CheckpointError, match="has not finished; resume it"):
        htr.load(tmp_path / "run", network())


@pytest.mark.parametrize("how", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_copies(posterior, data, how):
    copied = how(posterior)
    assert torch.equal(copied.predict(data[0]).log_probs, posterior.predict(data[0]).log_probs)
    assert copied.hyperparameters() == posterior.hyperparameters()
    assert (copied.priors, copied.history, copied.config) == (
        posterior.priors,
        posterior.history,
        posterior.config,
    )


def test_hyperparameters(posterior):
    values = posterior.hyperparameters()
    assert len(values) == 2
    assert {name.partition(":")[0] for name in values} == {"conv.weight", "fc.weight"}
    for name, value in values.items():
        assert type(value) is float
        assert value == pytest.approx(posterior.unconstrained_hyperparameters()[name].exp().item())
    assert "tail_index" in next(iter(values))
    posterior.unconstrained_hyperparameters()[name].zero_()
    assert posterior.hyperparameters() == values


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["DataParallel", "compile"])
def test_a_wrapped_network_is_saved_as_the_plain_one(tmp_path, wrap):
    net = nn.Sequential(nn.Linear(6, 3))
    htr.Posterior(wrap(net), htr.Priors({})).save(tmp_path / "run")
    loaded = htr.load(tmp_path / "run", nn.Sequential(nn.Linear(6, 3))).network()
    assert torch.equal(loaded[0].weight, net[0].weight)


# Posteriors with a guide


DRAWS_SCRIPT = """
import runpy, sys, torch
import bayes_htr as htr

torch.set_num_threads(1)
conftest, folder, x, out = sys.argv[1:]
posterior = htr.load(folder, runpy.run_path(conftest)["make_network"]())
log_probs = posterior.predict(torch.load(x), samples=20, seed=5).log_probs
torch.save((log_probs, posterior.hyperparameters(), repr(posterior)), out)
"""


@pytest.fixture
def saved_draws(sampled, tmp_path):
    sampled.save(tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.long
def test_a_new_process_loads_the_same_with_a_guide(sampled, saved_draws, data, tmp_path):
    torch.save(data[0], tmp_path / "x.pt")
    conftest = Path(__file__).with_name("conftest.py")
    arguments = [conftest, saved_draws, tmp_path / "x.pt", tmp_path / "out.pt"]
    command = [sys.executable, "-c", DRAWS_SCRIPT, *map(str, arguments)]
    subprocess.run(command, check=True, cwd=Path(htr.__file__).parents[1], timeout=120)
    log_probs, hyperparameters, shown = torch.load(tmp_path / "out.pt")
    assert torch.equal(log_probs, sampled.predict(data[0], samples=20, seed=5).log_probs)
    assert hyperparameters == sampled.hyperparameters()
    assert shown == repr(sampled)


@pytest.fixture
def unchecked_draws(saved_draws):
    (saved_draws / "digests.json").unlink()
    return saved_draws


def test_load_restores_everything_with_a_guide(sampled, saved_draws, network):
    loaded = htr.load(saved_draws, network())
    assert loaded.config == sampled.config
    loaded.save(saved_draws.parent / "again")
    for file in saved_draws.iterdir():
        assert (saved_draws.parent / "again" / file.name).read_bytes() == file.read_bytes(), (
            file.name
        )
    assert (saved_draws / "guide.safetensors").exists()


@pytest.mark.parametrize("part", [None, 0.0, 0.5, 0.99])
def test_truncated_guide(unchecked_draws, network, part):
    file = unchecked_draws / "guide.safetensors"
    content = file.read_bytes()
    file.unlink()
    if part is not None:
        file.write_bytes(content[: int(part * len(content))])
    with pytest.raises(htr.CheckpointError, match=r"guide\.safetensors"):
        htr.load(unchecked_draws, network())


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
def test_foreign_guide(unchecked_draws, network, change):
    config = json.loads((unchecked_draws / "config.json").read_text())
    config["guide"] |= change
    (unchecked_draws / "config.json").write_text(json.dumps(config))
    with pytest.raises(htr.CheckpointError, match=r"guide\.safetensors .* do not fit"):
        htr.load(unchecked_draws, network())


def test_guide_that_is_not_finite(unchecked_draws, network):
    state = load_file(unchecked_draws / "guide.safetensors")
    state["draws0"][0] = float("inf")
    save_file(state, unchecked_draws / "guide.safetensors")
    with pytest.raises(htr.CheckpointError, match="not finite"):
        htr.load(unchecked_draws, network())


def test_a_pickle_in_place_of_a_guide_does_not_run(unchecked_draws, network, tmp_path):
    marker = tmp_path / "ran"

    class Code:
        def __reduce__(self):
            return (Path.touch, (marker,))

    (unchecked_draws / "guide.safetensors").write_bytes(pickle.dumps(Code()))
    with pytest.raises(htr.CheckpointError, match="cannot be read"):
        htr.load(unchecked_draws, network())
    assert not marker.exists()


@pytest.mark.parametrize("how", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_copies_with_a_guide(sampled, data, how):
    copied = how(sampled)
    expected = sampled.predict(data[0], samples=20).log_probs
    assert torch.equal(copied.predict(data[0], samples=20).log_probs, expected)
    again = how(sampled.spectra(3))
    assert torch.equal(again["fc.weight"], sampled.spectra(3)["fc.weight"])
    assert str(again.check("conv.weight")) == str(sampled.spectra(3).check("conv.weight"))

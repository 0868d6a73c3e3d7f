"""Bad input raises an error that names it and says what to do, and nothing is written."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import bayes_htr as htr

X = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 3


def with_entry(x, index, value):
    x = x.clone()
    x[index] = value
    return x


class Endless(IterableDataset):
    def __iter__(self):
        yield X[0], Y[0]


class RunsCode:
    """Pickles to code that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


DATA = {
    "nan": ((with_entry(X, (3, 2), float("nan")), Y), r"1 inputs are not finite.*\(3, 2\)"),
    "inf": ((with_entry(X, (3, 2), float("-inf")), Y), r"-inf at \(3, 2\); clean the data"),
    "nan in an array": ((np.full((20, 6), np.nan), Y.numpy()), "120 inputs are not finite"),
    "label too large": ((X, with_entry(Y, 4, 3)), "label 3 .* 3 outputs .*; change the last layer"),
    "label negative": ((X, Y - 1), "label -1 is negative"),
    "float labels": ((X, Y.float()), r"torch.float32 must be whole numbers.*\.long\(\)"),
    "bool labels": ((X, Y > 0), "torch.bool must be whole numbers"),
    "words": ((X, np.array(["a"] * 20)), "labels of dtype <U1 are no numbers"),
    "objects": ((np.array([object()] * 20), Y), "inputs of dtype object are no numbers"),
    "no examples": ((X[:0], Y[:0]), "no examples"),
    "one-hot labels": ((X, nn.functional.one_hot(Y)), r"labels of shape \(20, 3\)"),
    "lengths": ((X[:19], Y), r"shape \(19, 6\) and labels of shape \(20,\)"),
    "width": ((X[:, :5], Y), r"does not take inputs of shape \(20, 5\)"),
    "uint8": (((X * 10).abs().byte(), Y), r"uint8; convert them, as in X.float\(\) / 255"),
    "three": ((X, Y, Y), "must be a DataLoader or a pair"),
    "a tensor": (X, "must be a DataLoader or a pair"),
    "a loader of tensors": (DataLoader(X, 4), r"a batch must be a pair \(x, y\)"),
    "a loader with nan": (
        DataLoader(TensorDataset(with_entry(X, 0, float("nan")), Y), 4),
        "6 inputs are not finite",
    ),
    "a loader without length": (DataLoader(Endless(), 4), "no length.*; use a map-style data set"),
    "a loader of nothing": (DataLoader(TensorDataset(X[:0], Y[:0]), 4), "no examples"),
    "a loader that drops all": (
        DataLoader(TensorDataset(X, Y), 32, drop_last=True),
        "batch size is above its 20 examples",
    ),
    "a loader that does not batch": (
        DataLoader(TensorDataset(X[None], Y[None]), batch_size=None),
        "batch_size=None",
    ),
}


@pytest.fixture(params=["new", "empty"])
def untouched(request, tmp_path):
    """A folder to write to; afterwards nothing must be in it, or there."""
    path = tmp_path / "runs" / "a"
    if request.param == "empty":
        path.mkdir(parents=True)
    yield path
    assert not path.exists() if request.param == "new" else list(path.iterdir()) == []
    assert request.param == "empty" or not path.parent.exists()


@pytest.mark.parametrize("which", ["train", "validation"])
@pytest.mark.parametrize(("data", "message"), DATA.values(), ids=DATA)
def test_data(model, untouched, data, message, which):
    given = {"train": (X, Y), "validation": (X, Y)} | {which: data}
    with pytest.raises(htr.DataError, match=f"(?s){which}.*{message}"):
        htr.fit(model, method=htr.MAP(), epochs=1, out=untouched, **given)


def test_a_late_label_of_a_loader_is_named(model):
    y = with_entry(Y, 19, 7)
    with pytest.raises(htr.DataError, match="label 7 does not match a network with 3 outputs"):
        htr.fit(model, DataLoader(TensorDataset(X, y), 4), method=htr.MAP(), epochs=1)


def net_with(**changes):
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, changes.get("outputs", 3)))
    if (value := changes.get("value")) is not None:
        nn.init.constant_(net[2].weight, value)
    return net.requires_grad_(not changes.get("frozen", False))


ALL_FLAT = htr.Priors({})
LOG = htr.Priors({"2.weight": htr.ESD(htr.ImproperPowerlaw(2.0))})
NETWORKS = {
    "too few outputs": (net_with(outputs=2), ALL_FLAT, htr.DataError, "label 2 .* 2 outputs"),
    "no logits": (
        nn.Sequential(net_with(), nn.Flatten(0)),
        ALL_FLAT,
        htr.DataError,
        r"logits of shape \(20, classes\), not \(60,\)",
    ),
    "a tuple": (nn.LSTM(6, 3), ALL_FLAT, htr.DataError, "not <class 'tuple'>"),
    "nan": (net_with(value=float("nan")), ALL_FLAT, htr.SpectrumError, "2.weight holds 24 entries"),
    "inf": (net_with(value=float("inf")), ALL_FLAT, htr.SpectrumError, "load other weights"),
    "rank": (net_with(value=1.0), LOG, htr.SpectrumError, "2.weight has rank 1 of 3"),
    "nothing to train": (net_with(frozen=True), ALL_FLAT, ValueError, "unfreeze some"),
}


@pytest.mark.parametrize(("net", "priors", "error", "message"), NETWORKS.values(), ids=NETWORKS)
def test_networks(untouched, net, priors, error, message):
    model = htr.BayesianClassifier(net, priors)
    with pytest.raises(error, match=message):
        htr.fit(model, (X, Y), method=htr.MAP(), epochs=1, out=untouched)


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        ({"epochs": -1}, ValueError, "epochs=-1 must be a whole number of at least 0"),
        ({"epochs": 1.5}, ValueError, "epochs=1.5"),
        ({"epochs": True}, ValueError, "epochs=True"),
        ({"batch_size": 0}, ValueError, "batch_size=0 must be a whole number of at least 1"),
        ({"batch_size": 2.0}, ValueError, "batch_size=2.0"),
        ({"seed": None}, ValueError, "seed=None must be a whole number"),
        ({"seed": 0.5}, ValueError, "seed=0.5"),
        ({"method": htr.MAP(patience=3)}, ValueError, "patience=3 needs validation"),
        ({"device": "nowhere"}, ValueError, "device='nowhere' cannot be used"),
        ({"method": htr.MAP(optimizer=partial(torch.optim.Adam, betas=2))}, TypeError, "int"),
        pytest.param(
            {"method": htr.MAP(scheduler=lambda o, extra: None)}, TypeError, "extra", id="scheduler"
        ),
    ],
    ids=str,
)
def test_settings(model, untouched, setting, error, message):
    given = {"method": htr.MAP(), "epochs": 1} | setting
    with pytest.raises(error, match=message):
        htr.fit(model, (X, Y), out=untouched, **given)


def test_resume_needs_a_folder(model):
    with pytest.raises(ValueError, match="resume=True needs out="):
        htr.fit(model, (X, Y), method=htr.MAP(), epochs=1, resume=True)


@pytest.mark.parametrize("count", [2, 4])
def test_class_weights_for_other_classes(make_model, untouched, count):
    model = make_model(class_weights=[1.0] * count)
    with pytest.raises(htr.DataError, match=f"{count} class weights for a network with 3"):
        htr.fit(model, (X, Y), method=htr.MAP(), epochs=1, out=untouched)


def run(model, out, **more):
    given = {"method": htr.MAP(), "epochs": 1} | more
    return htr.fit(model, (X, Y), out=out, **given)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("path", ["file", "file/below", "file/far/below"])
def test_unwritable_folder(model, tmp_path, path, resume):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(htr.OutputError, match=r"name (a|another) folder"):
        run(model, tmp_path / path, resume=resume)
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(htr.OutputError, match=r"name (a|another) folder"):
        htr.Posterior(model.net, ALL_FLAT).save(tmp_path / path)


def contents(path):
    return {p.name: p.read_bytes() for p in path.iterdir()}


@pytest.mark.parametrize("finished", [True, False])
def test_used_folder(model, tmp_path, finished):
    run(model, tmp_path) if finished else (tmp_path / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(htr.OutputError, match=r"is not empty; resume the run .*another folder"):
        run(model, tmp_path)
    with pytest.raises(htr.OutputError, match="is not empty"):
        htr.Posterior(model.net, ALL_FLAT).save(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"format": 99}', b"\xff\xfe", b'{"epochs": 3}'],
    ids=repr,
)
def test_foreign_config(model, tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(htr.CheckpointError, match=r"config\.json"):
        run(model, tmp_path, resume=True)
    with pytest.raises(htr.CheckpointError, match=r"config\.json"):
        htr.load(tmp_path, model.net)
    assert contents(tmp_path) == {"config.json": content}


def test_no_run_to_resume_or_load(model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for act in (partial(run, model, tmp_path, resume=True), partial(htr.load, tmp_path, model.net)):
        with pytest.raises(htr.CheckpointError, match=r"holds no run: there is no config\.json"):
            act()
    with pytest.raises(htr.CheckpointError, match="holds no run"):
        htr.load(tmp_path / "nowhere", model.net)
    assert set(contents(tmp_path)) == {"notes.txt"}


@pytest.fixture
def finished(model, tmp_path):
    run(model, tmp_path / "run")
    return tmp_path / "run"


def check_resume_fails(model, folder, message):
    before = contents(folder)
    with pytest.raises(htr.CheckpointError, match=message):
        run(model, folder, epochs=2, resume=True)
    assert contents(folder) == before


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_truncated_checkpoint(model, finished, part):
    file = finished / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[: int(part * file.stat().st_size)])
    check_resume_fails(model, finished, r"checkpoint\.pt cannot be read .*anew in another folder")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_random_bytes_as_checkpoint(model, finished):
    generator = np.random.default_rng(0)
    for size in (1, 2, 5, 20, 100) * 10:
        for start in (b"", b"\x80\x02"):
            (finished / "checkpoint.pt").write_bytes(start + generator.bytes(size))
            check_resume_fails(model, finished, r"checkpoint\.pt cannot be read")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_code_in_a_checkpoint_does_not_run(model, finished, tmp_path, how):
    marker = tmp_path / "ran"
    state = {"format": 1, "epoch": 1, "net": RunsCode(marker)}
    save = torch.save if how == "torch" else lambda s, p: p.write_bytes(pickle.dumps(s))
    save(state, finished / "checkpoint.pt")
    check_resume_fails(model, finished, r"checkpoint\.pt cannot be read")
    assert not marker.exists()
    if how == "torch":
        torch.load(finished / "checkpoint.pt", weights_only=False)
    else:
        pickle.loads((finished / "checkpoint.pt").read_bytes())
    assert marker.exists()  # so it would have


@pytest.mark.parametrize(
    "state", [{"weight": torch.ones(2)}, torch.ones(3), [1, 2], {"format": 2}], ids=str
)
def test_a_torch_file_of_something_else(model, finished, state):
    torch.save(state, finished / "checkpoint.pt")
    check_resume_fails(model, finished, "is not a checkpoint of a bayes_htr run")

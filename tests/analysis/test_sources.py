"""State dicts and files give the weights of the module; what is not a weight is named."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import bayes_htr as htr
from bayes_htr.analysis import open_source
from bayes_htr.errors import DataError
from bayes_htr.spectra import matrices_of
from tests.analysis.cases import Net, flat


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def test_a_state_dict_has_no_layer_types(net):
    state = net.state_dict()
    source = open_source(state)
    found = flat(source)
    assert source.skipped == {"head.weight": "tied to embed.weight"}
    same = set(found) - {"up.weight"}
    for name in same:
        torch.testing.assert_close(found[name], matrices_of(net)[name].detach())
    assert found["up.weight"].shape == (6, 16), "the input comes first"
    assert {w.name: w.kind for w in source.weights}["embed.weight"] == "dense"


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_a_checkpoint_around_a_state_dict(net, key):
    state = {f"module.{k}": v for k, v in net.state_dict().items()}
    optimiser = {"state": {0: {"exp_avg": torch.ones(9, 9)}}}
    source = open_source({"epoch": 3, key: state, "optimizer": optimiser})
    assert set(flat(source)) == set(flat(open_source(net.state_dict())))


def test_scores_and_counts_beside_a_state_dict():
    state = {"w": torch.randn(12, 9)}
    checkpoint = {"best_acc1": torch.tensor(71.0), "mean": torch.ones(9, 9), "state_dict": state}
    assert list(flat(open_source(checkpoint))) == ["w"]
    assert list(flat(open_source({**state, "params": {"lr": torch.tensor(0.1)}}))) == ["w"]


def test_a_checkpoint_within_itself():
    checkpoint = {"step": 3}
    checkpoint["model"] = checkpoint
    with pytest.raises(DataError, match="no tensors by name"):
        open_source(checkpoint)


@pytest.mark.parametrize("kind", ["state dict", "file"])
def test_names_that_differ_in_their_wrappers_alone(tmp_path, kind):
    state = {"module.w": torch.randn(12, 9), "w": torch.randn(10, 9), "module.v": torch.ones(9, 9)}
    if kind == "file":
        save_file(state, tmp_path / "net.safetensors")
    found = flat(open_source(state if kind == "state dict" else tmp_path / "net.safetensors"))
    assert {name: len(W) for name, W in found.items()} == {"module.w": 12, "w": 10, "v": 9}


def test_what_is_no_weight_is_named():
    state = {
        "int8": torch.ones(9, 9, dtype=torch.int8),
        "complex": torch.ones(9, 9, dtype=torch.complex64),
        "empty": torch.ones(0, 9),
        "sparse": torch.eye(9).to_sparse(),
        "meta": torch.ones(9, 9, device="meta"),
        "vector": torch.ones(9),
        "scalar": torch.tensor(1.0),
        "weight": torch.randn(9, 9),
    }
    source = open_source(state)
    assert [w.name for w in source.weights] == ["weight"]
    assert set(source.skipped) == {"int8", "complex", "empty", "sparse", "meta"}
    assert "int8 is no floating-point type" in source.skipped["int8"]


def test_views_of_one_tensor_are_not_tied():
    both = torch.randn(20, 9)
    assert len(open_source({"a": both[:10], "b": both[10:], "c": both}).weights) == 3


def test_files_hold_what_the_state_dict_holds(net, tmp_path):
    state = {k: v.clone() for k, v in net.state_dict().items() if k != "head.weight"}
    torch.save(net.state_dict(), tmp_path / "net.pt")
    torch.save(net.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "net.safetensors")
    expected = flat(open_source(net.state_dict()))
    for name in ("net.pt", "old.pth", "net.safetensors"):
        found = flat(open_source(tmp_path / name))
        assert set(found) == set(expected), name
        assert all(torch.equal(found[k], expected[k]) for k in expected), name


@pytest.mark.parametrize("mapped", [True, False])
def test_files_of_torch_are_mapped_where_they_can_be(net, tmp_path, monkeypatch, mapped):
    torch.save(net.state_dict(), tmp_path / "net.pt", _use_new_zipfile_serialization=mapped)
    seen = []

    def loaded(*given, **options):
        seen.append((options["mmap"], options["weights_only"]))
        return load(*given, **options)

    load = torch.load
    monkeypatch.setattr(torch, "load", loaded)
    open_source(tmp_path / "net.pt")
    assert seen == [(mapped, True)]


def sharded(folder, tensors):
    files = {}
    for i, (name, tensor) in enumerate(tensors.items()):
        files[name] = f"model-{i}.safetensors"
        save_file({name: tensor}, folder / files[name])
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return index


def test_sharded_safetensors(tmp_path):
    tensors = {f"{i}.weight": torch.randn(12, 9 + i) for i in range(3)}
    index = sharded(tmp_path, tensors)
    for path in (index, tmp_path, str(tmp_path)):
        found = flat(open_source(path))
        assert all(torch.equal(found[k], tensors[k]) for k in tensors)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_short_types(tmp_path, dtype):
    torch.manual_seed(0)
    W = torch.randn(40, 30).to(dtype)
    save_file({"w": W}, tmp_path / "net.safetensors")
    (row,) = htr.analyze(tmp_path / "net.safetensors").rows
    assert row["lambda_max"] == pytest.approx(float(htr.spectrum(W.float())[0]), rel=1e-4)
    kernel = W[:, :27].reshape(40, 3, 3, 3)
    options = {"conv": "slices", "randomize": True, "farms": True}
    (row,) = htr.analyze({"w": kernel}, **options).rows
    assert row["num_evals"] == 27
    assert row["norm"] == pytest.approx(float(kernel.float().square().sum()) / 2, rel=1e-4)


def test_a_run_folder_of_this_library(tmp_path):
    model = htr.BayesianClassifier(nn.Sequential(nn.Linear(9, 10)), htr.Priors({}))
    data = (torch.randn(30, 9), torch.randint(10, (30,)))
    htr.fit(model, data, method=htr.MAP(), epochs=1, out=tmp_path / "run")
    assert [r["name"] for r in htr.analyze(tmp_path / "run").rows] == ["0.weight"]


@pytest.mark.parametrize("source", [torch.ones(9, 9), np.ones((9, 9))])
def test_a_single_array_is_to_be_named(source):
    with pytest.raises(DataError, match=r"give it as \{'name': array\}"):
        open_source(source)

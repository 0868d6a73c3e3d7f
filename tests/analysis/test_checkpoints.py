"""Checkpoints as training scripts write them: which mapping and which files hold the network."""

import argparse
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import bayes_htr as htr
from bayes_htr.analysis import open_source
from bayes_htr.cli import main
from bayes_htr.errors import CheckpointError, DataError


def make_state(names=("fc", "head"), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {f"{name}.weight": torch.randn(12, 9, generator=generator) for name in names}


STATE = make_state()
OPTIMISER = {"state": {0: {"exp_avg": torch.ones(12, 9)}}, "param_groups": [{"lr": 0.1}]}


def names(source):
    return [weight.name for weight in open_source(source).weights]


@pytest.mark.parametrize(
    "path",
    [
        ("model_state",),
        ("model", "state_dict"),
        ("module",),
        ("ema",),
        ("params_ema",),
        ("generator",),
        ("encoder",),
        ("student",),
        ("teacher", "backbone"),
        ("checkpoint", "net", "weights"),
        ("G",),
        ("policy_net",),
    ],
)
def test_the_one_nested_mapping_that_holds_matrices(path, tmp_path):
    inner = STATE
    for key in reversed(path):
        inner = {key: inner, "note": "text"}
    checkpoint = {**inner, "epoch": 3, "optimizer": OPTIMISER, "g_optim": OPTIMISER}
    assert names(checkpoint) == list(STATE)
    torch.save(checkpoint, tmp_path / "a.pt")
    assert names(tmp_path / "a.pt") == list(STATE)


def test_lists_of_state_dicts_and_tuples_around_them(tmp_path):
    assert names({"models": [STATE], "scores": [1.0]}) == list(STATE)
    torch.save((STATE, 3, OPTIMISER["param_groups"]), tmp_path / "a.pt")
    assert names(tmp_path / "a.pt") == list(STATE)


def test_several_state_dicts_are_listed():
    both = {"generator": STATE, "discriminator": make_state(("d",), 1), "epoch": 3}
    with pytest.raises(DataError) as caught:
        open_source(both)
    assert "'generator' (2 matrices), 'discriminator' (1 matrices)" in str(caught.value)
    assert "checkpoint['generator']" in str(caught.value)
    with pytest.raises(DataError, match=r"'models\.0'.*'models\.1'"):
        open_source({"models": [STATE, STATE.copy()]})


def test_a_usual_key_comes_first_and_the_others_are_told_of():
    with pytest.warns(UserWarning, match=r"beside 'model', which is analysed: 'ema' \(1 matrices"):
        assert names({"ema": make_state(("e",), 1), "model": STATE}) == list(STATE)
    with pytest.warns(UserWarning, match=r"beside 'model\.state_dict'"):
        assert names({"model": {"state_dict": STATE}, "ema": make_state(("e",))}) == list(STATE)


@pytest.mark.filterwarnings("error")
def test_what_is_beside_a_state_dict_is_no_state_dict():
    assert names({"state_dict": STATE, "optimizer_states": [OPTIMISER]}) == list(STATE)
    assert names({**STATE, "best": {"acc": torch.tensor(1.0)}}) == list(STATE)
    assert names({"model": STATE, "rng_state": {"a": torch.ones(9, 9)}}) == list(STATE)


def test_checkpoints_without_a_state_dict():
    with pytest.raises(DataError, match=r"keys: 'net'\); 'net' is a module: give that"):
        open_source({"net": nn.Linear(9, 9)})
    with pytest.raises(DataError, match="holds no tensors by name"):
        open_source({"epoch": 3, "\x1b[31mkey": 1})
    nested = STATE
    for _ in range(50):
        nested = {"a": nested}
    with pytest.raises(DataError, match="holds no tensors by name"):
        open_source(nested)


# Names of files


@pytest.mark.parametrize("name", ["a.pth.tar", "a.pkl", "checkpoint", "a.th", "a.model", "a.5"])
@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_any_name(name, zipped, tmp_path):
    path = tmp_path / name
    torch.save({"state_dict": STATE}, path, _use_new_zipfile_serialization=zipped)
    assert names(path) == list(STATE)


@pytest.mark.parametrize("content", [b"", b"\x89PNG", b"text", b"\x1f\x8b\x08"])
def test_files_of_other_formats(content, tmp_path):
    path = tmp_path / "a.dat"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"ends in \.dat and is no file of torch\.save"):
        open_source(path)
    np.savez(tmp_path / "a.npz", w=np.ones((9, 9)))
    with pytest.raises(CheckpointError, match=r"a\.npz cannot be read"):
        open_source(tmp_path / "a.npz")


def test_sharded_files_of_torch(tmp_path):
    shards = {}
    for i, (name, tensor) in enumerate(STATE.items()):
        shards[name] = f"pytorch_model-{i}.bin"
        torch.save({name: tensor}, tmp_path / shards[name])
    torch.save(OPTIMISER, tmp_path / "optimizer.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    assert names(index) == names(tmp_path) == list(STATE)
    index.write_text(json.dumps({"weight_map": {**shards, "v": "pytorch_model-0.bin"}}))
    with pytest.raises(CheckpointError, match="names 'v', which is in none"):
        open_source(index)
    index.write_text(json.dumps({"weight_map": {"v": "../a.bin"}}))
    with pytest.raises(CheckpointError, match="no file beside it"):
        open_source(tmp_path)


def test_the_folder_of_a_trainer(tmp_path):
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt"):
        torch.save(OPTIMISER, tmp_path / name)
    torch.save(argparse.Namespace(lr=1), tmp_path / "training_args.bin")
    assert names(tmp_path) == list(STATE)
    torch.save(STATE, tmp_path / "second.pt")
    assert names(tmp_path) == list(STATE), "the usual name"
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "first.pt")
    with pytest.raises(CheckpointError, match=r"2 files .* \(first\.pt, second\.pt\)"):
        open_source(tmp_path)
    for name in ("first.pt", "second.pt"):
        (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=r"0 files of torch\.save with weights"):
        open_source(tmp_path)


# Refused pickles


class Net(nn.Module):
    """A class of this file."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(9, 9)


@pytest.mark.parametrize("zipped", [True, False])
def test_refused_pickles_name_their_classes(zipped, tmp_path, capsys):
    path = tmp_path / "a.pt"
    torch.save({"net": Net(), "path": Path("x")}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError) as caught:
        open_source(path)
    text = str(caught.value)
    assert f"{Net.__module__}.Net" in text and "pathlib" in text and "save the state dict" in text
    assert "\x1b" not in text and "_rebuild_tensor" not in text
    assert main(["analyze", str(path)]) == 1
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_archives_of_torchscript_are_named(tmp_path):
    torch.jit.script(nn.Linear(9, 9)).save(str(tmp_path / "a.pt"))
    with pytest.raises(CheckpointError, match=r"archive of TorchScript.*torch\.jit\.load"):
        open_source(tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_names_of_classes_are_text(tmp_path):
    class Global:
        def __reduce__(self):
            return print, ("ran",)

    for protocol in (2, 4):
        (tmp_path / "a.pt").write_bytes(pickle.dumps({"a": Global()}, protocol=protocol))
        with pytest.raises(CheckpointError, match=r"objects of (builtins|__builtin__)\.print"):
            open_source(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"\x80\x02c\x1b[31mred\nname\n)R.")
    with pytest.raises(CheckpointError) as caught:
        open_source(tmp_path / "b.pt")
    assert "\x1b" not in str(caught.value) and "red.name" in str(caught.value)


# Folders of torch.distributed.checkpoint


@pytest.fixture
def distributed(tmp_path):
    dcp = pytest.importorskip("torch.distributed.checkpoint")
    state = {**STATE, "fc.bias": torch.ones(12), "half.weight": torch.randn(10, 9).bfloat16()}
    dcp.save({"model": state, "optim": OPTIMISER, "step": 3}, checkpoint_id=tmp_path / "d")
    return tmp_path / "d", state


@pytest.mark.filterwarnings("ignore:torch.distributed is")
def test_a_folder_of_a_distributed_checkpoint(distributed):
    folder, state = distributed
    found = {w.name: w.load() for w in open_source(folder).weights}
    assert list(found) == ["fc.weight", "head.weight", "half.weight"]
    assert all(torch.equal(found[name], state[name]) for name in found)


@pytest.mark.filterwarnings("ignore:torch.distributed is")
def test_a_distributed_checkpoint_that_is_damaged_or_hostile(distributed, tmp_path):
    folder, _ = distributed
    part = next(folder.glob("*.distcp"))
    content = part.read_bytes()
    part.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        open_source(folder)
    part.rename(folder / "elsewhere")
    with pytest.raises(CheckpointError, match="no file there"):
        open_source(folder)
    touched = tmp_path / "touched"

    class Bomb:
        def __reduce__(self):
            return Path.touch, (touched,)

    for metadata in (pickle.dumps(Bomb()), b"", b"\x80\x04."):
        (folder / ".metadata").write_bytes(metadata)
        with pytest.raises(CheckpointError, match=r"\.metadata is no metadata"):
            htr.analyze(folder)
    assert not touched.exists()

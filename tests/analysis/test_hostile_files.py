"""Files from strangers: a clear error, no code run, nothing left behind."""

import importlib.util
import json
import math
import pickle
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import bayes_htr as htr
from bayes_htr.analysis import open_source
from bayes_htr.cli import main
from bayes_htr.errors import CheckpointError, DataError


def safetensors(path, header, data=b"", *, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(shape, offsets, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BAD_SAFETENSORS = {
    "empty": lambda p: p.write_bytes(b""),
    "a few bytes": lambda p: p.write_bytes(b"\x05\x00"),
    "3 GB header": lambda p: safetensors(p, b"{}", length=3 * 2**30),
    "endless header": lambda p: safetensors(p, b"{}", length=2**63),
    "no JSON": lambda p: safetensors(p, b"not a header"),
    "JSON list": lambda p: safetensors(p, []),
    "unknown type": lambda p: safetensors(p, {"w": entry([2, 2], [0, 16], "F99")}, b"0" * 16),
    "offsets beyond": lambda p: safetensors(p, {"w": entry([9, 9], [0, 324])}, b"0" * 16),
    "shape against offsets": lambda p: safetensors(p, {"w": entry([9, 9], [0, 16])}, b"0" * 16),
    "negative shape": lambda p: safetensors(p, {"w": entry([-3, 3], [0, 36])}, b"0" * 36),
    "huge shape": lambda p: safetensors(p, {"w": entry([2**40, 2**40], [0, 16])}, b"0" * 16),
    "overlap": lambda p: safetensors(
        p, {"a": entry([2, 2], [0, 16]), "b": entry([2, 2], [8, 24])}, b"0" * 24
    ),
    "a pickle": lambda p: torch.save({"w": torch.ones(9, 9)}, p),
}


@pytest.mark.parametrize("kind", BAD_SAFETENSORS)
def test_safetensors_that_cannot_be_read(kind, tmp_path):
    path = tmp_path / "bad.safetensors"
    BAD_SAFETENSORS[kind](path)
    with pytest.raises(CheckpointError, match=r"bad\.safetensors cannot be read"):
        htr.analyze(path)


def test_a_truncated_safetensors_file(tmp_path):
    path = tmp_path / "bad.safetensors"
    save_file({"w": torch.randn(50, 50)}, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="truncated"):
        htr.analyze(path)


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_pickles_with_code_run_none(new, tmp_path):
    touched = tmp_path / "touched"
    state = {"w": torch.randn(9, 9), "bomb": Bomb(str(touched))}
    torch.save(state, tmp_path / "bad.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(CheckpointError, match="not loaded, as that may run code"):
        htr.analyze(tmp_path / "bad.pt")
    assert not touched.exists()
    torch.load(tmp_path / "bad.pt", weights_only=False)
    assert touched.exists(), "the bomb works"


def test_a_bare_pickle_runs_none(tmp_path):
    touched = tmp_path / "touched"
    (tmp_path / "bad.pth").write_bytes(pickle.dumps(Bomb(str(touched))))
    with pytest.raises(CheckpointError, match=r"bad\.pth cannot be read"):
        htr.analyze(tmp_path / "bad.pth")
    assert not touched.exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x02}q\x00.", b"PK\x03\x04 and no more", b"text"])
def test_torch_files_that_cannot_be_read(content, tmp_path):
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises((CheckpointError, DataError), match=r"bad\.pt"):
        htr.analyze(tmp_path / "bad.pt")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_truncated_torch_file(part, tmp_path):
    path = tmp_path / "bad.pt"
    torch.save({"w": torch.randn(50, 50)}, path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(CheckpointError, match="truncated"):
        htr.analyze(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_values_that_are_not_finite(value, suffix, tmp_path):
    W = torch.randn(20, 20)
    W[3, 4] = value
    path = tmp_path / f"bad{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)({"good": torch.eye(9), "w": W}, path)
    good, bad = htr.analyze(path, randomize=True, farms=True, bootstrap=9).rows
    assert bad["name"] == "w" and bad["status"] == "failed"
    assert bad["verdict"] == "not finite: 1 of 400 entries are NaN or infinite"
    assert math.isnan(bad["alpha"]) and math.isnan(bad["lambda_max"])
    assert good["lambda_max"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"epoch": 3},
        {"a": torch.tensor(1.0), "b": torch.ones(9)},
        {"w": torch.ones(9, 9, dtype=torch.int32)},
        {"w": torch.ones(0, 9)},
        {"w": torch.ones(9, 9).to_sparse()},
        {"w": torch.ones(100, 2)},
    ],
    ids=["empty", "no tensors", "0-d and 1-d", "integers", "no entries", "sparse", "small"],
)
def test_nothing_to_analyse(state, tmp_path):
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(DataError, match=r"bad\.pt"):
        htr.analyze(tmp_path / "bad.pt")
    with pytest.raises(DataError, match="state dict"):
        htr.analyze(state)


def test_other_things_are_refused(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"ends in \.onnx"):
        htr.analyze(tmp_path / "net.onnx")
    with pytest.raises(CheckpointError, match="does not exist"):
        htr.analyze(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="no safetensors file"):
        htr.analyze(tmp_path / "empty")
    with pytest.raises(DataError, match="type list holds no"):
        htr.analyze([torch.ones(9, 9)])
    torch.save(torch.ones(9, 9), tmp_path / "tensor.pt")
    with pytest.raises(DataError, match="holds a Tensor"):
        htr.analyze(tmp_path / "tensor.pt")


@pytest.mark.parametrize(
    "index",
    [b"", b"[]", b'{"weight_map": 3}', b'{"weight_map": {"w": 3}}', b"{}"],
)
def test_a_bad_index(index, tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(index)
    with pytest.raises(CheckpointError, match="no index"):
        htr.analyze(path)


@pytest.mark.parametrize("name", ["missing.safetensors", "../outside.safetensors", "/etc/passwd"])
def test_an_index_that_names_what_is_not_beside_it(name, tmp_path):
    (tmp_path / "net").mkdir()
    save_file({"w": torch.randn(9, 9)}, tmp_path / "outside.safetensors")
    index = tmp_path / "net" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(CheckpointError, match="no file beside it"):
        htr.analyze(index)


def test_one_name_in_two_files(tmp_path):
    for i in range(2):
        save_file({"w": torch.randn(9, 9)}, tmp_path / f"part{i}.safetensors")
    with pytest.raises(CheckpointError, match="w is in part0"):
        htr.analyze(tmp_path)


def test_a_matrix_that_is_not_finite_is_in_every_output(tmp_path, capsys):
    W, path = torch.randn(20, 20), tmp_path / "bad.safetensors"
    W[0, :3] = float("nan")
    save_file({"a": torch.randn(20, 20), "b": W}, path)
    words = "not finite: 3 of 400 entries are NaN or infinite"
    for suffix in ("csv", "json", "html"):
        out = tmp_path / f"out.{suffix}"
        option = "--report" if suffix == "html" else "--out"
        assert main(["analyze", str(path), option, str(out)]) == 0
        assert words in out.read_text()
    assert "not finite" in capsys.readouterr().out
    report = htr.analyze(path)
    assert np.isnan(report.spectra["b"]).all() and len(report.spectra["b"]) == 20
    again = report.compare(report)
    assert again.rows[1]["verdict"] == "not compared: too little to tell in both"
    if importlib.util.find_spec("matplotlib"):
        for picture in (report.plot(), report.plot("b"), again.plot(), again.plot("b")):
            picture.canvas.draw()


def test_networks_of_which_nothing_is_finite():
    state = {"a": torch.full((12, 9), torch.inf), "b": torch.full((9, 9, 3, 3), torch.nan)}
    for conv in ("flatten", "slices"):
        report = htr.analyze(state, conv=conv)
        assert [row["status"] for row in report.rows] == ["failed", "failed"]
        assert [row["verdict"].split(" are ")[0] for row in report.rows][1] == (
            "not finite: 729 of 729 entries"
        )


def test_an_index_that_is_nested_without_end(tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match="no index"):
        htr.analyze(path)


def test_an_index_that_names_what_its_files_do_not_hold(tmp_path):
    save_file({"w": torch.randn(9, 9)}, tmp_path / "part.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(["w", "v"], "part.safetensors")}))
    with pytest.raises(CheckpointError, match="names 'v', which is in none"):
        htr.analyze(tmp_path)


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        htr.analyze(tmp_path / f"{'a' * 5000}.pt")


def test_a_small_file_does_not_claim_memory_without_end(tmp_path):
    torch.save(
        {"w": torch.ones(1).expand(2**20, 2**20), "v": torch.randn(9, 9)}, tmp_path / "bad.pt"
    )
    report = htr.analyze(tmp_path / "bad.pt")
    assert report.skipped == {"w": "it repeats fewer entries than it has"}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors(layout):
    nested = torch.nested.nested_tensor([torch.ones(9, 9), torch.ones(12, 9)], layout=layout)
    report = htr.analyze({"w": torch.randn(9, 9), "nested": nested})
    assert "give dense tensors" in report.skipped["nested"]


def test_packed_numbers_of_half_a_byte():
    packed = torch.zeros(9, 9, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    assert "float4" in htr.analyze({"w": torch.randn(9, 9), "p": packed}).skipped["p"]


def test_small_files_that_stand_for_large_matrices_or_many(tmp_path):
    state = {
        "x.lora_A.weight": torch.ones(1, 300_000),
        "x.lora_B.weight": torch.ones(300_000, 1),
        "experts.w": torch.ones(100_000, 1, 1),
        "weight": torch.randn(12, 9),
    }
    save_file(state, tmp_path / "net.safetensors")
    source = open_source(tmp_path / "net.safetensors")
    assert "90000000000 entries" in source.skipped["x.lora_BA"]
    assert [w.name for w in source.weights] == ["experts.w", "weight"]


def test_long_names_and_many_parametrizations_take_no_time():
    names = [f"{'_bias' * 20_000}{i}" for i in range(20)]
    names += [f"{i}.parametrizations.weight.original" for i in range(20_000)]
    W = torch.ones(3, 3)
    state = dict.fromkeys(names, W[:])
    before = time.process_time()
    open_source(state)
    assert time.process_time() - before < 10

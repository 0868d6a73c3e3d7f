from __future__ import annotations

import json

import pytest
import torch

import bayes_htr as htr
from bayes_htr.inference.run_folder import RunFolder


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

from __future__ import annotations

import json
import pickle
from functools import partial
from pathlib import Path

import numpy as np
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
    names = {p.name for p in tmp_path.iterdir()}
    with pytest.raises(OSError, match="disk full"):
        folder.write_checkpoint({"epoch": 2})
    assert folder.checkpoint()["epoch"] == 1
    assert {p.name for p in tmp_path.iterdir()} == names
    assert names == {"checkpoint.pt", "metrics.jsonl", "digests.json"}


def test_contents_of_a_run(make_model, data, validation, frechet, tmp_path):
    out = tmp_path / "new" / "run"
    posterior = htr.fit(
        make_model(frechet), data, method=htr.MAP(), epochs=3, validation=validation, out=out
    )
    names = {"config.json", "checkpoint.pt", "metrics.jsonl", "digests.json"}
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


# Bad folders and files

X = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 3
ALL_FLAT = htr.Priors({})


class RunsCode:
    """Pickles to code that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


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


def overwrite(file, content):
    """Replace a file of a run as an earlier version wrote it, without digests."""
    file.write_bytes(content)
    file.with_name("digests.json").unlink(missing_ok=True)


def check_resume_fails(model, folder, message):
    before = contents(folder)
    with pytest.raises(htr.CheckpointError, match=message):
        run(model, folder, epochs=2, resume=True)
    assert contents(folder) == before


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_truncated_checkpoint(model, finished, part):
    file = finished / "checkpoint.pt"
    overwrite(file, file.read_bytes()[: int(part * file.stat().st_size)])
    check_resume_fails(model, finished, r"checkpoint\.pt cannot be read .*anew in another folder")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_random_bytes_as_checkpoint(model, finished):
    generator = np.random.default_rng(0)
    for size in (1, 2, 5, 20, 100) * 10:
        for start in (b"", b"\x80\x02"):
            overwrite(finished / "checkpoint.pt", start + generator.bytes(size))
            check_resume_fails(model, finished, r"checkpoint\.pt cannot be read")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_code_in_a_checkpoint_does_not_run(model, finished, tmp_path, how):
    marker = tmp_path / "ran"
    state = {"format": 1, "epoch": 1, "net": RunsCode(marker)}
    save = torch.save if how == "torch" else lambda s, p: p.write_bytes(pickle.dumps(s))
    save(state, finished / "checkpoint.pt")
    (finished / "digests.json").unlink()
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
    (finished / "digests.json").unlink()
    check_resume_fails(model, finished, "is not a checkpoint of a bayes_htr run")

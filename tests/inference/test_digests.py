"""Damaged, swapped and lost files of a run folder are recognised; a killed process damages none."""

from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import pytest

import bayes_htr as htr
from bayes_htr.inference import digests
from bayes_htr.inference.run_folder import RunFolder

PRIOR = htr.Priors({"fc1.weight": htr.ESD(htr.Lomax(2.0)), "fc2.weight": htr.ESD(htr.Lomax(2.0))})


@pytest.fixture
def finished(make_model, data, tmp_path):
    htr.fit(make_model(PRIOR), data, method=htr.SVI(), epochs=2, out=tmp_path / "run")
    return tmp_path / "run"


def read(folder, net):
    """Read each file of a finished run."""
    RunFolder(folder).checkpoint()
    RunFolder(folder).tensors("spectra.safetensors")
    htr.load(folder, net)


def flip(file, position, bit):
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << bit
    file.write_bytes(content)


@pytest.mark.parametrize(
    "name",
    ["checkpoint.pt", "config.json", "metrics.jsonl", "weights.safetensors", "guide.safetensors"],
)
def test_no_flipped_bit_is_read_without_a_word(finished, model, name):
    file, generator = finished / name, np.random.default_rng(0)
    whole = file.read_bytes()
    for position in generator.integers(len(whole), size=100 if name == "checkpoint.pt" else 20):
        flip(file, position, generator.integers(8))
        with pytest.raises(htr.CheckpointError, match=rf"{name} cannot be read \(its SHA-256 is"):
            read(finished, model.net)
        file.write_bytes(whole)
    read(finished, model.net)


def test_a_flipped_bit_in_the_digests_is_no_other_file(finished, model):
    """Blanks alone mean nothing there."""
    file = finished / "digests.json"
    whole = file.read_bytes()
    for position in [i for i, byte in enumerate(whole) if byte not in b" \n"][::7]:
        flip(file, position, 0)
        with pytest.raises(htr.CheckpointError, match=r"digests\.json is damaged|cannot be read"):
            read(finished, model.net)
        file.write_bytes(whole)


def test_a_resumed_run_does_not_start_from_a_damaged_file(finished, make_model, data):
    for name in ("checkpoint.pt", "config.json"):
        whole = (finished / name).read_bytes()
        flip(finished / name, len(whole) // 2, 0)
        with pytest.raises(htr.CheckpointError, match=f"{name} cannot be read .* was damaged"):
            htr.fit(make_model(PRIOR), data, method=htr.SVI(), epochs=3, out=finished, resume=True)
        (finished / name).write_bytes(whole)


@pytest.mark.parametrize(
    "name", ["config.json", "metrics.jsonl", "weights.safetensors", "guide.safetensors"]
)
def test_a_lost_file_is_missed(finished, model, name):
    (finished / name).unlink()
    with pytest.raises(htr.CheckpointError, match=rf"{name} is missing, though the run has"):
        htr.load(finished, model.net)


def test_files_of_another_run_are_recognised(finished, make_model, model, data, tmp_path):
    other = tmp_path / "other"
    htr.fit(make_model(PRIOR), data, method=htr.SVI(), epochs=2, out=other, seed=1)
    shutil.copy(other / "weights.safetensors", finished)
    with pytest.raises(htr.CheckpointError, match=r"weights\.safetensors cannot be read"):
        htr.load(finished, model.net)


def test_weights_that_the_run_has_not_written_are_no_result(make_model, model, data, tmp_path):
    def fail(event):
        raise KeyboardInterrupt

    htr.fit(make_model(), data, method=htr.MAP(), epochs=1, out=tmp_path / "other")
    with pytest.raises(KeyboardInterrupt):
        htr.fit(
            make_model(), data, method=htr.MAP(), epochs=2, out=tmp_path / "run", callbacks=[fail]
        )
    shutil.copy(tmp_path / "other" / "weights.safetensors", tmp_path / "run")
    with pytest.raises(htr.CheckpointError, match="put there by something else than this run"):
        htr.load(tmp_path / "run", model.net)


def test_a_run_of_an_earlier_version_loads_and_resumes(make_model, data, tmp_path, same_weights):
    def run(epochs, **more):
        settings = {"method": htr.MAP(), "epochs": epochs, "out": tmp_path / "run"}
        return htr.fit(make_model(), data, **settings, **more)

    first = run(2)
    (tmp_path / "run" / "digests.json").unlink()
    same_weights(htr.load(tmp_path / "run", make_model().net), first)
    resumed = run(4, resume=True)
    same_weights(htr.load(tmp_path / "run", make_model().net), resumed)
    flip(tmp_path / "run" / "checkpoint.pt", 1000, 0)
    with pytest.raises(htr.CheckpointError, match=r"checkpoint\.pt cannot be read"):
        run(5, resume=True)  # its files have digests now


class Killed(BaseException):
    """What ends a process in the middle."""


@pytest.mark.parametrize("has_digests", [True, False])
@pytest.mark.parametrize("moment", range(7))  # six files are written or renamed
def test_a_process_killed_at_any_moment_leaves_files_that_are_read(
    tmp_path, monkeypatch, moment, has_digests
):
    def write(epoch):
        history = [{"epoch": float(e)} for e in range(epoch)]
        RunFolder(tmp_path).write_checkpoint({"epoch": epoch}, history)

    def read():
        return RunFolder(tmp_path).checkpoint()["epoch"], len(RunFolder(tmp_path).metrics())

    write(1)
    if not has_digests:
        (tmp_path / "digests.json").unlink()
    done = []

    def until_killed(*args, step):
        if len(done) == moment:
            raise Killed
        done.append(step)
        return step(*args)

    with monkeypatch.context() as patched:
        for name in ("stage", "publish"):
            step = getattr(digests, name)
            patched.setattr(digests, name, partial(until_killed, step=step))
        if moment < 6:
            with pytest.raises(Killed):
                write(2)
        else:
            write(2)
    assert read() == ((1, 1) if moment < 5 else (2, 1) if moment == 5 else (2, 2))
    write(3)  # the process that resumes the run
    assert read() == (3, 3)


def test_a_reader_never_takes_a_file_under_way_for_a_damaged_one(tmp_path, monkeypatch):
    """The writer replaces a file after the reader has read the digests, and before the file."""
    writer, reader = RunFolder(tmp_path), RunFolder(tmp_path)
    writer.write_checkpoint({"epoch": 1})
    whole, left = digests.state_of, [2, 3]

    def replaced_first(file):
        if left:
            monkeypatch.setattr(digests, "state_of", whole)
            writer.write_checkpoint({"epoch": left.pop(0)})
            writer.write_checkpoint({"epoch": 10 + len(left)})
            monkeypatch.setattr(digests, "state_of", replaced_first)
        return whole(file)

    monkeypatch.setattr(digests, "state_of", replaced_first)
    assert reader.checkpoint()["epoch"] == 10


def test_digests_of_another_kind_are_refused(tmp_path, model):
    RunFolder(tmp_path).write_json("config.json", {"format": 1})
    content = json.loads((tmp_path / "digests.json").read_text())
    for change in ({"format": 2}, {"files": []}, {"files": {"config.json": "x"}}, {"sha256": 3}):
        (tmp_path / "digests.json").write_text(json.dumps(content | change))
        with pytest.raises(htr.CheckpointError, match=r"digests\.json is damaged"):
            htr.load(tmp_path, model.net)

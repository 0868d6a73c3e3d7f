"""What `bayes-htr report` makes of run folders that are damaged, foreign, or may only be read."""

from __future__ import annotations

import errno
import json

import pytest
import torch
from torch import nn

import bayes_htr as htr
from bayes_htr import _files
from bayes_htr.cli import main
from bayes_htr.inference import RunFolder
from bayes_htr.inference.run_folder import RESULTS, SPECTRA, SPECTRA_BEFORE
from bayes_htr.report import RunReport

SCORES = {"accuracy": 0.9, "nll": 0.3, "ece": 0.1, "brier": 0.2}
EPOCHS = [{"epoch": float(e), "train_nll": 1.0 / e, "train_accuracy": 0.5} for e in (1, 2)]


def write_results(folder, label="MAP"):
    results = {"seeds": [0], "by_seed": {label: [SCORES]}, "runs": {label: "."}}
    RunFolder(folder).write_json(RESULTS, results)


@pytest.fixture
def run(tmp_path):
    """A finished run without other runs that it is compared with."""
    folder = tmp_path / "run"
    net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))
    htr.Posterior(net, htr.Priors({}), history=EPOCHS).save(folder)
    RunFolder(folder).write_tensors(SPECTRA_BEFORE, RunFolder(folder).tensors(SPECTRA))
    write_results(folder)
    return folder


def report(run, capsys):
    """The exit status, and what was printed to both streams."""
    status = main(["report", str(run)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_a_whole_run_is_shown(run, capsys):
    status, out, _ = report(run, capsys)
    assert status == 0
    assert "test_accuracy=0.9000" in out
    assert (run / "spectra.png").exists() and (run / "training.png").exists()


def test_matrices_are_in_their_natural_order(run):
    """A file of tensors is in alphabetical order, in which layer 10 comes before layer 2."""
    names = [f"layers.{i}.weight" for i in (10, 2, 0)]
    for file in (SPECTRA, SPECTRA_BEFORE):
        RunFolder(run).write_tensors(file, {name: torch.rand(2, 30) for name in names})
    shown = RunReport.read(run)
    assert list(shown.spectra) == [f"layers.{i}.weight" for i in (0, 2, 10)]


@pytest.mark.parametrize(
    "rows",
    [
        [[1.0, 2.0]],
        [3],
        [{"epoch": "one", "train_nll": 0.1, "train_accuracy": 0.5}],
        [{"epoch": 1.0}],
        [{"epoch": 1.0, "train_nll": 0.1, "train_accuracy": None}],
        [EPOCHS[0] | {"val_nll": 0.1, "val_accuracy": 0.5}, EPOCHS[1]],
    ],
    ids=str,
)
def test_metrics_of_another_shape(run, capsys, rows):
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "digests.json").unlink()
    status, _, err = report(run, capsys)
    assert status == 1
    assert "metrics.jsonl cannot be" in err


@pytest.mark.parametrize(
    "spectrum",
    [
        torch.ones(5),
        torch.ones(()),
        torch.ones(1, 2, 3),
        torch.ones(0, 4),
        torch.ones(4, 0),
        torch.ones(2, 4, dtype=torch.int64),
        torch.tensor([[1.0, float("nan")]]),
        torch.tensor([[1.0, -1.0]]),
    ],
    ids=lambda s: f"{tuple(s.shape)} {s.dtype}",
)
@pytest.mark.parametrize("name", [SPECTRA, SPECTRA_BEFORE])
def test_spectra_of_another_shape(run, capsys, name, spectrum):
    RunFolder(run).write_tensors(name, {"0.weight": spectrum})
    status, _, err = report(run, capsys)
    assert status == 1
    assert f"{name} cannot be shown: '0.weight'" in err


HOSTILE = "a\x1b[2J\u202eb$\\frac[/red]"


def test_names_and_labels_do_nothing_to_a_terminal(run, capsys):
    lam = RunFolder(run).tensors(SPECTRA)["0.weight"]
    for name in (SPECTRA, SPECTRA_BEFORE):
        RunFolder(run).write_tensors(name, {HOSTILE: lam})
    write_results(run, HOSTILE)
    status, out, err = report(run, capsys)
    assert (status, err) == (0, "")
    assert "\x1b[2J" not in out and "\u202e" not in out
    assert out.count("\\x1b[2J\\u202eb$") >= 2


def test_an_error_about_a_hostile_name_does_nothing_either(run, capsys):
    RunFolder(run).write_tensors(SPECTRA, {HOSTILE: torch.ones(3)})
    status, out, err = report(run, capsys)
    assert status == 1
    assert "\x1b[2J" not in out + err and "\u202e" not in out + err


def test_a_run_that_may_only_be_read_is_shown_without_pictures(run, capsys, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(_files.os, "open", refuse)
    status, out, _ = report(run, capsys)
    assert status == 0
    assert "no pictures: " in out and "the file system is read-only" in out
    assert "test_accuracy=0.9000" in out
    assert not (run / "spectra.png").exists()


@pytest.mark.parametrize("name", [RESULTS, SPECTRA, SPECTRA_BEFORE, "metrics.jsonl"])
def test_damaged_files_are_recognised(run, capsys, name):
    content = bytearray((run / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run / name).write_bytes(content)
    status, _, err = report(run, capsys)
    assert status == 1
    assert f"{name} cannot be read" in err


@pytest.mark.parametrize(
    "results",
    [
        {"by_seed": {"MAP": [SCORES]}, "runs": {"MAP": "."}, "seeds": [1e400]},
        {"by_seed": {"MAP": [SCORES]}, "runs": {"MAP": "a\0b"}, "seeds": [0]},
        {"by_seed": {"MAP": [SCORES]}, "runs": [], "seeds": [0]},
        {"by_seed": [], "runs": {}, "seeds": [0]},
        {"by_seed": {"MAP": [SCORES | {"nll": "low"}]}, "runs": {"MAP": "."}, "seeds": [0]},
        {"by_seed": {"MAP": [SCORES]}, "runs": {"MAP": "."}, "seeds": 0},
    ],
    ids=str,
)
def test_foreign_results(run, capsys, results):
    RunFolder(run).write_json(RESULTS, results)
    status, _, err = report(run, capsys)
    assert status == 1
    assert "results.json cannot be read as the results of a run" in err


def test_a_picture_that_a_killed_process_left_half_is_no_obstacle(run, capsys):
    (run / ".spectra.png.0123.tmp").write_bytes(b"half")
    assert report(run, capsys)[0] == 0

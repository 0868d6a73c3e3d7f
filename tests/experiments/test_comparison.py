"""Folders of comparisons: each belongs to one command at a time, whatever starts at once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import bayes_htr as htr
from bayes_htr.experiments import claimed_folder

FIT = """
import sys, time, torch
import bayes_htr as htr

out, seed, start = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
torch.manual_seed(seed)
model = htr.BayesianClassifier(torch.nn.Linear(6, 3), htr.Priors({}))
time.sleep(max(0.0, start - time.time()))
try:
    htr.fit(model, (x, x[:, :3].argmax(1)), method=htr.MAP(), epochs=3, seed=seed, out=out)
except htr.OutputError as error:
    print(error)
    sys.exit(1)
"""


def start(arguments, **more):
    environment = os.environ | {"PYTHONPATH": str(Path(htr.__file__).parents[1])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], env=environment, **pipes, **more
    )


def race(out, begin):
    """Two fits with different seeds start in one folder at the same time."""
    both = [start(["-c", FIT, out, seed, begin]) for seed in (1, 2)]
    printed = [process.communicate(timeout=120) for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 1], printed
    loser = printed[codes.index(1)]
    assert "is in use" in loser[0] or "is not empty" in loser[0]
    posterior = htr.load(out, torch.nn.Linear(6, 3))
    assert posterior.config["seed"] == 1 + codes.index(0)
    assert not list(out.glob(".*"))


@pytest.mark.long
def test_one_of_two_fits_gets_a_folder(tmp_path):
    race(tmp_path / "run", time.time() + 6)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_one_of_two_fits_gets_a_folder_always(tmp_path, number):
    race(tmp_path / "run", time.time() + 5)


def claimed(default, count, out=None):
    """Claim folders by several threads at once, and hold all of them."""
    found, errors, meet = [], [], threading.Barrier(count)

    def claim():
        meet.wait()
        try:
            with claimed_folder(out, default, resume=False) as folder:
                (folder / "config.json").touch()
                found.append(folder)
        except htr.OutputError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=claim) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found, errors


def test_default_folders_are_new_ones(tmp_path):
    default = tmp_path / "runs" / "digits-mlp"
    found, errors = claimed(default, 6)
    assert not errors
    names = ["digits-mlp", *(f"digits-mlp-{number}" for number in range(2, 7))]
    assert sorted(folder.name for folder in found) == names


def test_a_folder_that_is_named_has_one_owner(tmp_path):
    for number in range(20):
        found, errors = claimed(tmp_path, 3, out=tmp_path / str(number))
        assert len(found) == 1
        assert all("is in use" in error or "is not empty" in error for error in errors)


def test_a_default_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "runs").write_text("mine")
    with (
        pytest.raises(htr.OutputError, match="cannot be written"),
        claimed_folder(None, tmp_path / "runs" / "digits", resume=False),
    ):
        pass


def test_nothing_is_left_of_a_folder_that_was_not_used(tmp_path):
    default = tmp_path / "runs" / "digits"
    with (
        pytest.raises(ValueError, match="a bad setting"),
        claimed_folder(None, default, resume=False),
    ):
        raise ValueError("a bad setting")
    assert not (tmp_path / "runs").exists()


@pytest.mark.long
def test_commands_that_start_in_the_same_second(tmp_path):
    options = ["fit", "--method", "map", "--no-compare", "--epochs", "1"]
    three = [start(["-m", "bayes_htr", *options], cwd=tmp_path) for _ in range(3)]
    for process in three:
        printed = process.communicate(timeout=300)
        assert process.returncode == 0, printed
    assert len(list((tmp_path / "runs").glob("*/results.json"))) == 3


@pytest.mark.slow
def test_two_commands_of_several_seeds_do_not_mix(tmp_path):
    """Without a lock of the whole, one could take the main fit, and the other those beside it."""
    options = ["fit", "--method", "map", "--epochs", "2", "--seeds", "2", "--out", "run"]
    both = [start(["-m", "bayes_htr", *options], cwd=tmp_path) for _ in range(2)]
    printed = [process.communicate(timeout=300) for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], printed
    assert (tmp_path / "run" / "results.json").exists()

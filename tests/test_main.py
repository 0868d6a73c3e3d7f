"""`python -m bayes_htr`, interrupted at any moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import bayes_htr as htr
from tests.processes import heed_interruptions

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs signals of POSIX")


def interrupted(tmp_path, words, seconds):
    """The exit status and all that is printed by a command that is interrupted as by Ctrl-C."""
    environment = os.environ | {"PYTHONPATH": str(Path(htr.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-m", "bayes_htr", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env=environment,
        start_new_session=True,  # so that all processes of the command are interrupted, and no more
        preexec_fn=heed_interruptions,
    )
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    printed = process.communicate(timeout=120)[0]
    return process.returncode, printed


FIT = ["fit", "--method", "map", "--epochs", "100000", "--no-compare"]


def check(status, printed):
    """It ends by the signal while modules are imported, and with a message afterwards."""
    if "Fatal Python error: init_" in printed:
        return  # Python itself had not begun yet, on a busy machine
    if "Traceback" in printed and "__main__.py" not in printed:
        return  # nor had the module that takes care of interruptions
    assert "Traceback" not in printed and "Error" not in printed, printed
    assert "Exception ignored" not in printed, printed
    assert status == -signal.SIGINT or (status == 130 and "interrupted" in printed), printed


@pytest.mark.parametrize("seconds", [0.15, 0.5, 1.0])
def test_an_interruption_while_modules_are_imported(tmp_path, seconds):
    check(*interrupted(tmp_path, FIT, seconds))
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("words", [FIT, [*FIT, "--seeds", "3"]], ids=["one", "several"])
def test_an_interruption_at_any_moment(tmp_path, words):
    moments = random.Random(0)
    for _ in range(15):
        check(*interrupted(tmp_path, words, moments.uniform(0.1, 12.0)))


@pytest.mark.long
def test_an_interruption_of_training(tmp_path):
    folder = tmp_path / "run"
    environment = os.environ | {"PYTHONPATH": str(Path(htr.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-m", "bayes_htr", *FIT, "--out", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=heed_interruptions,
    )
    end = time.monotonic() + 120
    while not (folder / "checkpoint.pt").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert errors == "bayes-htr: interrupted; go on with --resume FOLDER\n"
    assert not list(folder.glob(".*"))

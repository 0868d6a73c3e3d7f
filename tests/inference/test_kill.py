"""A run whose process is killed goes on from its last finished epoch, to the same weights."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import bayes_htr as htr

SCRIPT = """
import sys, time
import torch
import bayes_htr as htr

torch.set_num_threads(1)
out, log, epochs = sys.argv[1], sys.argv[2], int(sys.argv[3])
generator = torch.Generator().manual_seed(1)
x = torch.randn(64, 6, generator=generator)
torch.manual_seed(0)
net = torch.nn.Sequential(
    torch.nn.Linear(6, 64), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(64, 3)
)
model = htr.BayesianClassifier(net, htr.Priors({"0.weight": htr.MaxEigenvalue(htr.Frechet(2.0))}))

def note(event):
    with open(log, "a") as file:
        file.write(f"{event.epoch}\\n")

with open(log, "a") as file:
    file.write("start\\n")
htr.fit(
    model, (x, x[:, :3].argmax(1)), method=htr.MAP(lr=0.05), epochs=epochs, batch_size=8,
    out=out, resume=True, callbacks=[note],
)
"""


def start(out, log, epochs):
    command = [sys.executable, "-c", SCRIPT, str(out), str(log), str(epochs)]
    return subprocess.Popen(command, cwd=Path(htr.__file__).parents[1])


def lines(log):
    return log.read_text().splitlines() if log.exists() else []


def wait_for(condition, process):
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the process ended by itself"
        assert time.monotonic() < end
        time.sleep(0.001)


def run_with_kills(out, log, epochs, kills, seed):
    """Kill the run at random moments, `kills` times; check after each what is on disk."""
    moments = random.Random(seed)
    for _ in range(kills):
        starts = lines(log).count("start")
        process = start(out, log, epochs)
        wait_for(lambda n=starts: lines(log).count("start") > n, process)
        time.sleep(moments.uniform(0.0, 0.5))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was not killed; give it more epochs"
        noted = max((int(line) for line in lines(log) if line != "start"), default=0)
        if (out / "checkpoint.pt").exists():
            state = torch.load(out / "checkpoint.pt", weights_only=True)
            assert state["epoch"] in (noted, noted + 1)  # all but the epoch under way
            assert len(state["history"]) == state["epoch"]
        else:
            assert noted == 0
        assert not (out / "weights.safetensors").exists()
        rows = out / "metrics.jsonl"
        if rows.exists():
            assert [json.loads(r)["epoch"] for r in rows.read_text().splitlines()][-1:] in (
                [],
                [noted - 1],
                [noted],
                [noted + 1],
            )


def check(tmp_path, monkeypatch, epochs, kills, seed):
    out, whole, log = tmp_path / "run", tmp_path / "whole", tmp_path / "log"
    run_with_kills(out, log, epochs, kills, seed)
    assert start(out, log, epochs).wait() == 0
    monkeypatch.setattr(sys, "argv", ["", str(whole), str(tmp_path / "other log"), str(epochs)])
    exec(SCRIPT, {})
    assert not list(out.glob(".*"))
    assert (out / "weights.safetensors").read_bytes() == (
        whole / "weights.safetensors"
    ).read_bytes()
    noted = [int(line) for line in lines(log) if line != "start"]
    assert max(noted) == epochs
    # An epoch is trained again only where the process died between its checkpoint and its note.
    assert sorted(set(noted)) == noted
    assert len(noted) >= epochs - kills


@pytest.mark.long
def test_one_kill(tmp_path, monkeypatch):
    check(tmp_path, monkeypatch, epochs=80, kills=1, seed=0)


@pytest.mark.slow
def test_twenty_kills(tmp_path, monkeypatch):
    check(tmp_path, monkeypatch, epochs=1500, kills=20, seed=1)

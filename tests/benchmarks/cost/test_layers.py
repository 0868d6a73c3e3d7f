"""`growth` and `gpu`: single layers on a clock that goes on when told to, and end to end."""

import json
import sys

import pytest

from benchmarks.__main__ import main
from benchmarks.cost.layers import LayerSettings, layer_case, measure_growth, measure_refresh
from benchmarks.cost.training import Training
from benchmarks.sharded import LAWS

TINY = ["--threads", "1", "--warmup", "1", "--batch-size", "8"]
TINY_COST = ["--steps", "4", "--pairs", "2", "--turn", "3"]


def test_growth_stops_naive_steps_after_a_time(ticking):
    settings = LayerSettings(steps=4, turn=2, warmup=1, naive_steps=5, naive_seconds=1.5)
    training = Training(batch_size=8)
    case = layer_case(12, "lomax", training)
    found = measure_growth(case, settings, ticking, lambda count: None)
    assert (found["plain_ms"], found["ours_ms"]) == (500, 500)  # two turns of a second
    assert (found["naive_ms"], found["naive_steps"]) == (1000, 2)
    assert found["refreshes"] >= 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_refresh_and_eigh_are_timed_alone(dtype, ticking):
    settings = LayerSettings(steps=2, warmup=1)
    training = Training(batch_size=8, dtype=dtype)
    case = layer_case(12, "frechet", training)
    found = measure_refresh(case, settings, ticking, lambda count: None)
    assert (found["refresh_ms"], found["eigh_ms"]) == (1000, 1000)


def test_growth(tmp_path, capsys):
    options = ["--sizes", "16", "8", "--steps", "4", "--naive-steps", "1", "--refresh", "exact"]
    assert main(["growth", "--out", str(tmp_path), *TINY, *options]) == 0
    data = json.loads((tmp_path / "growth.json").read_text())
    assert list(data["cells"]) == ["8/lomax", "16/lomax"]
    result = data["cells"]["8/lomax"]["growth"]["result"]
    assert set(result) == {"plain_ms", "ours_ms", "naive_ms", "naive_steps", "refreshes"}
    assert (tmp_path / "growth.png").exists()
    assert "Time per step of an n x n layer" in capsys.readouterr().out


def test_gpu_is_the_same_code_on_the_cpu(tmp_path, capsys):
    options = ["--device", "cpu", "--nets", "lenet5", "--sizes", "8", "--priors", "lomax"]
    command = ["gpu", "--out", str(tmp_path), *TINY, *TINY_COST, *options]
    assert main([*command, "--layer-steps", "4", "--processes", "2"]) == 0
    data = json.loads((tmp_path / "gpu.json").read_text())
    assert data["cells"]["lenet5/lomax"]["cost"]["settings"]["dtype"] == "bfloat16"
    assert data["cells"]["lenet5/lomax"]["cost"]["result"]["naive"] is None
    assert set(data["cells"]["8/lomax"]["layer"]["result"]) == {
        *("plain_ms", "ours_ms", "refreshes", "refresh_ms", "eigh_ms")
    }
    for law in LAWS:
        found = data["cells"][f"8/{law}"]["sharded"]["result"]
        assert found["processes"] == 2
        assert found["energy_error"] < 1e-5
        assert found["gradient_error"] < 1e-4
        assert min(found[name] for name in ("alone_ms", "refresh_ms", "cached_ms")) > 0
    shown = capsys.readouterr().out
    assert "eigh / refresh" in shown
    assert "Sharded weights" in shown


def test_without_matplotlib_there_are_tables(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    options = ["--sizes", "8", "--steps", "2", "--naive-steps", "1"]
    assert main(["growth", "--out", str(tmp_path), *TINY, *options]) == 0
    assert "bayes-htr[plot]" in capsys.readouterr().out
    assert (tmp_path / "growth.md").exists()
    assert not (tmp_path / "growth.png").exists()

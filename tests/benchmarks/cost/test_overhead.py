"""`overhead`, end to end on a few random images; no number of seconds is asserted."""

import json

import pytest

from benchmarks.__main__ import main
from benchmarks.cost import overhead

TINY = ["--threads", "1", "--warmup", "1", "--batch-size", "8"]
TINY_COST = ["--steps", "4", "--pairs", "2", "--turn", "3"]


def tiny_overhead(out, data_dir, *options):
    given = ["--out", str(out), "--data-dir", str(data_dir), "--nets", "lenet5"]
    return ["overhead", *given, *TINY, *TINY_COST, "--naive-steps", "1", *options]


def test_overhead(tmp_path, data_dir, capsys, monkeypatch):
    command = tiny_overhead(
        tmp_path,
        data_dir,
        "--samples",
        "4",
        "--measure",
        "cost",
        "quality",
        "accuracy",
        "--seeds",
        "2",
    )
    assert main(command) == 0
    printed = capsys.readouterr().out
    for word in ("frechet", "weighted_alpha", "naive / ours", "lowest cosine", "95 % interval"):
        assert word in printed
    data = json.loads((tmp_path / "overhead.json").read_text())
    assert list(data["cells"]) == [
        f"lenet5/{prior}" for prior in ("frechet", "lomax", "powerlaw", "weighted_alpha")
    ]
    cell = data["cells"]["lenet5/frechet"]
    assert set(cell) == {"cost", "quality", "accuracy/0", "accuracy/1"}
    assert len(cell["cost"]["result"]["plain_seconds"]) == 2
    assert set(cell["cost"]["result"]["ratio"]) == {"median", "min", "max"}
    assert set(cell["cost"]["result"]["refreshes"]) == {
        *("conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight", "fc3.weight")
    }
    assert (tmp_path / "overhead.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "overhead.md").read_text()
    assert "| lenet5 | powerlaw |" in page
    assert "--out DIR" in page
    for text in (page, json.dumps(data)):
        assert str(tmp_path) not in text
        assert str(data_dir) not in text

    def measured(*args):
        raise AssertionError("measured again")

    for name in ("measure_cost", "measure_quality", "measure_accuracy"):
        monkeypatch.setattr(overhead, name, measured)
    assert main(command) == 0
    assert "16 of 16 parts are in overhead.json already" in capsys.readouterr().out


def test_overhead_of_a_slow_network_is_the_priors_share(tmp_path, data_dir, capsys):
    options = ("--nets", "resnet18", "--priors", "frechet", "--resnet-steps", "2")
    command = tiny_overhead(tmp_path, data_dir, *options, "--batch-size", "2")
    assert main(command) == 0
    assert "share of a step" in capsys.readouterr().out
    data = json.loads((tmp_path / "overhead.json").read_text())
    result = data["cells"]["resnet18/frechet"]["share"]["result"]
    assert 0 < result["share"] < 1


def test_strengths_of_names_are_recorded_as_numbers(tmp_path, data_dir, capsys):
    """So that results say what was measured, and names may change."""
    options = ["--measure", "accuracy", "--seeds", "1", "--priors", "frechet", "powerlaw"]
    assert main(tiny_overhead(tmp_path, data_dir, *options, "--strength", "named")) == 0
    cells = json.loads((tmp_path / "overhead.json").read_text())["cells"]
    settings = {cell: parts["accuracy/0"]["settings"] for cell, parts in cells.items()}
    num_data = settings["lenet5/frechet"]["num_data"]
    assert settings["lenet5/frechet"]["strength"] == pytest.approx(0.01 * num_data)
    assert settings["lenet5/powerlaw"]["strength"] == pytest.approx(0.0001 * num_data)
    given = ["--priors", "frechet", "--strength", str(settings["lenet5/frechet"]["strength"])]
    capsys.readouterr()
    assert main(tiny_overhead(tmp_path, data_dir, *options, *given)) == 0
    assert "1 of 1 parts are in overhead.json already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "abacus"], "device='abacus'"),
        (["--batch-size", "25"], "batch_size=25"),
        (["--data-dir", "nowhere"], "nowhere"),
        (["--tol", "-1"], "tol=-1"),
    ],
)
def test_bad_input_is_named(tmp_path, data_dir, capsys, options, message):
    assert main(tiny_overhead(tmp_path, data_dir, *options)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "overhead.json").exists()


def test_an_interruption_says_how_to_go_on(tmp_path, data_dir, capsys, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(overhead, "measure_cost", interrupted)
    assert main(tiny_overhead(tmp_path, data_dir)) == 130
    assert "the same command goes on" in capsys.readouterr().err

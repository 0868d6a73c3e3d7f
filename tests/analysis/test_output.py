"""CSV, JSON, Parquet, data frames, comparisons of two networks, and the command line."""

import csv
import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

import bayes_htr as htr
from bayes_htr.analysis.matrix import MatrixSpectrum
from bayes_htr.analysis.report import compare_matrices
from bayes_htr.analysis.verdict import HEAVY_TAILED, Verdict
from bayes_htr.cli import main
from bayes_htr.errors import DataError, OutputError


def network(seed=0, spike=0.0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(60, 40), nn.Linear(40, 30), nn.Linear(30, 25, bias=False))
    net[2].weight.data = torch.eye(25, 30)  # no tail
    net[0].weight.data[0] += spike
    return net


@pytest.fixture
def report():
    return htr.analyze(network())


def test_csv(report, tmp_path):
    path = report.to_csv(tmp_path / "a.csv")
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert list(rows[0]) == report.columns
    assert float(rows[0]["alpha"]) == report.rows[0]["alpha"]
    assert rows[2]["alpha"] == "" and rows[2]["status"] == "failed"


def test_json(report, tmp_path):
    data = json.loads(report.to_json(tmp_path / "a.json").read_text())
    assert data["rows"][0]["alpha"] == report.rows[0]["alpha"]
    assert data["rows"][2]["alpha"] is None
    assert data["network"] == "Sequential" and data["settings"]["conv"] == "flatten"


def test_json_says_how_the_report_was_made(tmp_path):
    options = {
        "layers": "[01].*",
        "exclude": ["1.*"],
        "seed": np.int64(3),
        "level": np.float32(0.5),
    }
    path = htr.analyze(network(), **options).to_json(tmp_path / "a.json")
    made = json.loads(path.read_text())
    settings = made["settings"]
    assert made["version"] == htr.__version__
    assert settings["layers"] == ["[01].*"] and settings["exclude"] == ["1.*"]
    assert (settings["seed"], settings["level"]) == (3, 0.5)


HOSTILE = [
    "=1+1",
    "+a",
    "-a",
    "@a",
    "\tb",
    "[red]c[/red]",
    "[/]",
    "\x1b[31md",
    "\ud800",
    "ü.日本[q]",
]


@pytest.fixture
def hostile():
    torch.manual_seed(0)
    return htr.analyze({name: torch.randn(12, 9) for name in HOSTILE}, progress=True)


def test_names_in_a_spreadsheet_are_no_formulas(hostile, tmp_path):
    with hostile.to_csv(tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        found = [row["name"] for row in csv.DictReader(file)]
    assert found[:5] == [f"'{name}" for name in HOSTILE[:5]]
    assert found[5:] == [*HOSTILE[5:8], "\\ud800", HOSTILE[9]]


def test_names_in_other_files(hostile, tmp_path):
    data = json.loads(hostile.to_json(tmp_path / "a.json").read_text())
    assert [row["name"] for row in data["rows"]] == HOSTILE
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(hostile.to_parquet(tmp_path / "a.parquet"))
    assert table["name"].to_pylist()[:8] == HOSTILE[:8]


def test_names_in_the_terminal_are_text(hostile, capsys):
    Console(width=160, color_system="truecolor", force_terminal=True).print(hostile.table(["name"]))
    captured = capsys.readouterr()
    for text in (str(hostile), captured.out):
        assert "[red]c[/red]" in text and "[/]" in text and "ü.日本[q]" in text
        assert r"\x1b[31md" in text and "\x1b[31md" not in text


def test_names_in_messages_of_the_command_are_text(tmp_path, capsys):
    path = tmp_path / "a.safetensors"
    save_file({"\x1b[31md": torch.ones(3, 3), "w[q]": torch.randn(12, 9)}, path)
    assert main(["analyze", str(path)]) == 0
    assert main(["analyze", str(path), "--layers", "none"]) == 1
    printed = capsys.readouterr()
    assert "w[q]" in printed.out
    for text in printed:
        assert r"\x1b[31md" in text and "\x1b" not in text


def test_pandas(report):
    pytest.importorskip("pandas")
    frame = report.to_pandas()
    assert list(frame.columns) == report.columns and len(frame) == 3
    assert frame.alpha[0] == report.rows[0]["alpha"]
    assert math.isnan(frame.alpha[2])


def test_parquet(report, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(report.to_parquet(tmp_path / "a.parquet"))
    assert table.column_names == report.columns
    assert table["alpha"].to_pylist() == [report.rows[0]["alpha"], report.rows[1]["alpha"], None]


@pytest.mark.parametrize(("module", "method"), [("pandas", "pandas"), ("pyarrow", "parquet")])
def test_without_the_optional_packages(report, tmp_path, monkeypatch, module, method):
    monkeypatch.setitem(sys.modules, module, None)
    arguments = [] if method == "pandas" else [tmp_path / "a.parquet"]
    with pytest.raises(ImportError, match=r"pip install \"bayes-htr\[tables\]\""):
        getattr(report, f"to_{method}")(*arguments)
    assert not list(tmp_path.iterdir())


def test_files_that_cannot_be_written(report, tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        report.to_csv(tmp_path / "none" / "a.csv")
    with pytest.raises(ValueError, match=r"\.xlsx"):
        report.write(tmp_path / "a.xlsx")


def test_a_file_that_fails_midway_leaves_the_old_one(report, tmp_path, monkeypatch):
    path = report.to_csv(tmp_path / "a.csv")
    old = path.read_text()

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(csv.DictWriter, "writerow", fail)
    with pytest.raises(OutputError, match="no space left"):
        report.to_csv(path)
    assert path.read_text() == old and len(list(tmp_path.iterdir())) == 1


def test_columns_of_the_table(report):
    assert len(report.table(["name", "alpha"]).columns) == 2
    with pytest.raises(ValueError, match="no column 'beta'"):
        report.table(["beta"])


def test_comparison_of_two_networks(report):
    other = htr.analyze(network(spike=2.0))
    found = report.compare(other)
    first = found.rows[0]
    a, b = report.rows[0], other.rows[0]
    assert first["lambda_max_ratio"] == pytest.approx(b["lambda_max"] / a["lambda_max"])
    assert (first["alpha"], first["other_alpha"]) == (a["alpha"], b["alpha"])
    assert first["first_verdict"].startswith("like a random matrix")
    assert first["verdict"].startswith("not compared: like a random matrix in ")
    assert math.isnan(first["difference"]) and math.isnan(first["difference_low"])
    assert found.rows[2]["verdict"] == "not compared: too little to tell in both"
    assert "difference" in str(found)


def test_the_interval_of_a_difference():
    first_report, other = (htr.analyze(pareto_layer(i, 1)) for i in (1.5, 2.0))
    (first,) = first_report.compare(other).rows
    a, b = first_report.rows[0], other.rows[0]
    assert first["difference"] == b["alpha"] - a["alpha"]
    down = math.hypot(b["alpha"] - b["searched_low"], a["searched_high"] - a["alpha"])
    up = math.hypot(b["searched_high"] - b["alpha"], a["alpha"] - a["searched_low"])
    assert first["difference_low"] == pytest.approx(first["difference"] - down)
    assert first["difference_high"] == pytest.approx(first["difference"] + up)


def pareto_layer(index, seed):
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(300, generator=generator, dtype=torch.float64)
    Q = torch.linalg.qr(torch.randn(300, 300, generator=generator, dtype=torch.float64)).Q
    return {"w": Q * u ** (-0.5 / index)}


def test_differences_are_told_where_there_are_any():
    heavy, light = (htr.analyze(pareto_layer(i, 1)) for i in (1.0, 4.0))
    assert heavy.compare(light).rows[0]["verdict"] == "lighter-tailed in the second"
    assert light.compare(heavy).rows[0]["verdict"] == "heavier-tailed in the second"
    again = htr.analyze(pareto_layer(1.0, 2))
    assert heavy.compare(again).rows[0]["verdict"] == "no difference to tell"


def test_what_a_report_does_not_stand_behind_is_not_compared():
    steep = pareto_layer(4.0, 1)
    for state, label in [
        ({"w": torch.randn(300, 300)}, "like a random matrix"),
        ({"w": torch.eye(300)}, "too little to tell"),
        ({"w": torch.full((300, 300), torch.nan)}, "too little to tell"),
        ({"w": torch.diag(torch.linspace(1, 9, 300)).sqrt()}, "power law doubtful"),
    ]:
        heavy, other = htr.analyze(steep), htr.analyze(state, bootstrap=100)
        for pair, side in (((heavy, other), "second"), ((other, heavy), "first")):
            (row,) = pair[0].compare(pair[1]).rows
            assert row["verdict"] == f"not compared: {label} in the {side}"
            assert math.isnan(row["difference"]) and math.isnan(row["difference_high"])


def test_an_interval_that_does_not_reach_its_estimate():
    row = {"name": "w", "N": 9, "M": 9, "rf": 1, "lambda_max": 1.0, "stable_rank": 1.0}
    row |= {"verdict": Verdict("heavy-tailed", HEAVY_TAILED), "alpha": 2.5}
    fit = htr.fit_powerlaw(1 + np.random.default_rng(0).pareto(1.5, 100))
    inside = replace(fit, alpha=2.5, interval=(2.0, 3.0))
    beyond = replace(inside, searched_interval=(2.7, 3.5))
    first, second = (MatrixSpectrum(row, fit.values, f, None) for f in (inside, beyond))
    ((found,), _) = compare_matrices([first], [second])
    assert (found["difference_low"], found["difference_high"]) == pytest.approx(
        (-0.5, math.hypot(1.0, 0.5))
    )


def test_networks_without_a_common_matrix(report):
    other = htr.analyze({"other": torch.randn(9, 9)})
    with pytest.raises(DataError, match=r"share no matrix .* other"):
        report.compare(other)
    with pytest.raises(ValueError, match=r"level=0.95 and level=0.5"):
        report.compare(htr.analyze(network(), level=0.5))
    kernel = htr.analyze({"w": torch.randn(16, 12, 3, 3)}, conv="slices")
    with pytest.raises(DataError, match="share no matrix"):
        kernel.compare(htr.analyze({"w": torch.randn(16, 12)}))
    partly = htr.analyze({"0.weight": network()[0].weight, "new": torch.randn(9, 9)})
    assert report.compare(partly).unmatched == ("1.weight", "2.weight", "new")


@pytest.fixture
def files(tmp_path):
    paths = []
    for i, spike in enumerate((0.0, 2.0)):
        paths.append(str(tmp_path / f"{i}.safetensors"))
        save_file(network(spike=spike).state_dict(), paths[-1])
    return paths


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_command_line(files, tmp_path, capsys, suffix):
    out = tmp_path / f"report.{suffix}"
    options = ["--bootstrap", "20", "--randomize", "--farms", "--layers", "[01].*"]
    assert main(["analyze", files[0], "--out", str(out), *options]) == 0
    printed = capsys.readouterr().out
    assert "verdict" in printed and "2.weight: no pattern includes it" in printed
    text = out.read_text()
    assert "farms_alpha" in text and "max_rand_eval" in text and "searched_low" in text


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("--layers 0.* 1.*", {"layers": ["0.*", "1.*"]}),
        ("--exclude 1.* kernel", {"exclude": ["1.*", "kernel"]}),
        ("--min-size 28", {"min_size": 28}),
        ("--conv slices", {"conv": "slices"}),
        ("--level 0.5", {"level": 0.5}),
        ("--bootstrap 9", {"bootstrap": 9}),
        ("--bootstrap 9 --seed 3", {"bootstrap": 9, "seed": 3}),
        ("--randomize", {"randomize": True}),
        ("--randomize --seed 3", {"randomize": True, "seed": 3}),
        ("--farms", {"farms": True}),
    ],
)
def test_options_of_the_command_are_those_of_analyze(tmp_path, capsys, words, options):
    path, out = tmp_path / "net.safetensors", tmp_path / "a.json"
    save_file({**network().state_dict(), "kernel": torch.randn(12, 10, 2, 2)}, path)
    assert main(["analyze", str(path), "--out", str(out), *words.split()]) == 0
    found = json.loads(out.read_text())
    assert found == json.loads(json.dumps(htr.analyze(path, **options).to_dict()))
    assert found["rows"] != htr.analyze(path).to_dict()["rows"]


def test_command_line_compares(files, tmp_path, capsys):
    out = tmp_path / "report.csv"
    assert main(["analyze", files[0], "--compare", files[1], "--out", str(out)]) == 0
    assert "Spectra of two networks" in capsys.readouterr().out
    assert "lambda_max_ratio" in out.read_text()


def test_command_line_errors(files, tmp_path, capsys):
    out = str(tmp_path / "a.xlsx")
    for arguments, words in [
        ([str(tmp_path / "none.pt")], "does not exist"),
        ([files[0], "--layers", "fc*"], "matches no weight"),
        ([files[0], "--out", out], "tables end in"),
        ([files[0], "--min-size", "0"], "min_size=0"),
        ([files[0], "--out", str(tmp_path / "none" / "a.csv")], "--out"),
        ([files[0], "--report", str(tmp_path / "none" / "a.html")], "there is no folder"),
        ([files[0], "--report", str(tmp_path / "a.txt")], "reports end in .html"),
    ]:
        assert main(["analyze", *arguments]) == 1
        printed = capsys.readouterr()
        assert words in printed.err.replace("\n", " ")
        assert "verdict" not in printed.out, "nothing was analysed"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.safetensors", "1.safetensors"]


def test_both_inputs_are_checked_before_the_first_is_analysed(files, tmp_path, capsys):
    for name, state in {
        "small": {"0.weight": torch.ones(3, 3)},
        "other": {"elsewhere": torch.randn(9, 9)},
        "shapes": {"0.weight": torch.randn(40, 61)},
    }.items():
        save_file(state, tmp_path / f"{name}.safetensors")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    options = ["--out", str(tmp_path / "a.csv"), "--report", str(tmp_path / "a.html")]
    for other, words in [
        ("none.pt", "does not exist"),
        ("empty.pt", "cannot be read"),
        ("folder", "holds no safetensors file"),
        ("small.safetensors", "no weight matrix to analyse"),
        ("other.safetensors", "share no matrix"),
        ("shapes.safetensors", "share no matrix"),
    ]:
        assert main(["analyze", files[0], "--compare", str(tmp_path / other), *options]) == 1
        printed = capsys.readouterr()
        assert words in printed.err.replace("\n", " ")
        assert "verdict" not in printed.out, "nothing was analysed"
        assert not list(tmp_path.glob("a.*"))
    pattern = ["--layers", "1.*", "--compare", str(tmp_path / "other.safetensors")]
    assert main(["analyze", files[0], *pattern]) == 1
    assert "verdict" not in capsys.readouterr().out


def test_outputs_that_are_folders_are_refused_before_the_work(files, tmp_path, capsys):
    for option, name in (("--out", "a.csv"), ("--report", "a.html")):
        (tmp_path / name).mkdir()
        assert main(["analyze", files[0], option, str(tmp_path / name)]) == 1
        printed = capsys.readouterr()
        assert "is a folder" in printed.err.replace("\n", " ") and "verdict" not in printed.out

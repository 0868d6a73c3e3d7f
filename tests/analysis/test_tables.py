"""CSV, JSON, Parquet, data frames, and the table of the terminal."""

import csv
import json
import math
import re
import sys

import pytest
import torch
from rich.console import Console

import bayes_htr as htr
from bayes_htr.errors import OutputError
from tests.analysis.cases import gaussian, network, pareto


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


@pytest.mark.parametrize("width", [50, 60, 80, 100, 130, 160])
def test_words_are_whole_in_terminals_of_any_width(width):
    names = ["features.layer1.0.convolution.weight", "b"]
    states = [
        dict(zip(names, (pareto(100, index, 0), gaussian(60, 60)), strict=True))
        for index in (2.0, 1.0)
    ]
    report = htr.analyze(states[0])
    comparison = report.compare(htr.analyze(states[1]))
    console = Console(width=width, color_system=None)
    for records in (report, comparison):
        with console.capture() as capture:
            console.print(records.fitting_table(width))
        lines = capture.get().splitlines()
        assert max(len(line) for line in lines) <= width
        cells = [re.split("[│┃]", line)[2:-1] for line in lines if "│" in line or "┃" in line]
        words = {word for row in cells for cell in row for word in cell.split()}
        table = records.table()
        known = " ".join(str(h.header) for h in table.columns) + " "
        known += " ".join(str(cell) for column in table.columns for cell in column.cells)
        assert words <= set(known.split()), words - set(known.split())


def test_a_table_of_a_terminal_that_is_far_too_narrow_is_not_cut_off():
    report = htr.analyze({"features.layer1.0.convolution.weight": gaussian(60, 60)})
    console = Console(width=30, color_system=None)
    with console.capture() as capture:
        console.print(report.fitting_table(30))
    assert max(len(line) for line in capture.get().splitlines()) <= 30
    assert capture.get().rstrip().endswith("┘")

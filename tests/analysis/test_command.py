"""The command line of `analyze`."""

import json
import re
import subprocess

import pytest
import torch
import torch.distributed.checkpoint as dist_checkpoint
from safetensors.torch import save_file

import bayes_htr as htr
from bayes_htr.cli import main
from tests.analysis.cases import network
from tests.processes import ENVIRONMENT, torchrun


def page_data_in(path):
    """The data inside of a written page."""
    text = path.read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(data)


@pytest.fixture
def files(tmp_path):
    paths = []
    for i, spike in enumerate((0.0, 2.0)):
        paths.append(str(tmp_path / f"{i}.safetensors"))
        save_file(network(spike=spike).state_dict(), paths[-1])
    return paths


def test_names_in_messages_of_the_command_are_text(tmp_path, capsys):
    path = tmp_path / "a.safetensors"
    save_file({"\x1b[31md": torch.ones(3, 3), "w[q]": torch.randn(12, 9)}, path)
    assert main(["analyze", str(path)]) == 0
    assert main(["analyze", str(path), "--layers", "none"]) == 1
    printed = capsys.readouterr()
    assert "w[q]" in printed.out
    for text in printed:
        assert r"\x1b[31md" in text and "\x1b" not in text


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


@pytest.mark.parametrize("compare", [False, True])
def test_the_page_of_a_file(files, tmp_path, capsys, compare):
    out = tmp_path / "report.html"
    arguments = ["--compare", files[1]] if compare else []
    assert main(["analyze", files[0], "--report", str(out), *arguments]) == 0
    assert f"written: {out}" in capsys.readouterr().out
    data = page_data_in(out)
    assert ("comparison" in data) is compare and len(data["rows"]) == 3


def test_the_command_refuses_before_it_works(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("bayes_htr.analysis.command.analyze", None)
    for name, words in [("a.pdf", "reports end in .html"), ("none/a.html", "there is no folder")]:
        assert main(["analyze", files[0], "--report", str(tmp_path / name)]) == 1
        assert words in capsys.readouterr().err.replace("\n", " ")
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


def test_a_file_says_which_axes_form_matrices(tmp_path, capsys):
    path, layouts = tmp_path / "a.safetensors", tmp_path / "layouts.toml"
    save_file({"fused": torch.randn(30, 12)}, path)
    layouts.write_text("[matrices.fused]\nparts = 'qk'\n")
    out = tmp_path / "rows.json"
    assert main(["analyze", str(path), "--matrices", str(layouts), "--out", str(out)]) == 0
    assert [row["name"] for row in json.loads(out.read_text())["rows"]] == ["fused[q]", "fused[k]"]
    layouts.write_text("[matrices.absent]\nparts = 'qk'\n")
    capsys.readouterr()
    assert main(["analyze", str(path), "--matrices", str(layouts)]) == 1
    assert "'absent' matches no tensor" in capsys.readouterr().err


def save_sharded(state, folder):
    """Two safetensors files with their index."""
    folder.mkdir()
    names = sorted(state)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, there in parts.items():
        save_file({name: state[name] for name in there}, folder / file)
    index = {"weight_map": {name: file for file, there in parts.items() for name in there}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def save_distributed(state, folder):
    dist_checkpoint.save(state, checkpoint_id=str(folder), no_dist=True)


@pytest.mark.long
@pytest.mark.parametrize(
    ("save", "processes"),
    [
        pytest.param(save_sharded, 2, id="sharded"),
        pytest.param(save_distributed, 4, id="distributed"),
        pytest.param(save_sharded, 4, id="sharded in four", marks=pytest.mark.slow),
        pytest.param(save_distributed, 2, id="distributed in two", marks=pytest.mark.slow),
    ],
)
def test_several_processes_write_the_report_of_one(tmp_path, capsys, save, processes):
    torch.manual_seed(0)
    shapes = [(40, 30), (25, 60), (9, 9), (12, 20), (30, 30)]
    source = tmp_path / "source"
    save({f"layers.{i}.weight": torch.randn(shape) for i, shape in enumerate(shapes)}, source)
    command = ["analyze", str(source), "--bootstrap", "20", "--randomize", "--out"]
    assert main([*command, str(tmp_path / "one.csv")]) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if "layers." in line]
    done = subprocess.run(
        [*torchrun(processes), "-m", "bayes_htr", *command, str(tmp_path / "several.csv")],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "several.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert len([line for line in done.stdout.splitlines() if "layers." in line]) == len(shown) >= 5

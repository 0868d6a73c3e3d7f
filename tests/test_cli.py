"""The command line, end to end on the embedded digits."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats
from sklearn.datasets import load_digits

import bayes_htr as htr
from bayes_htr import commands
from bayes_htr.cli import build_parser, main
from bayes_htr.experiments import build_network, load_dataset
from bayes_htr.inference import RunFolder
from bayes_htr.report import RunReport
from bayes_htr.tuning.search import Trial, smoothed_minimum

QUICK = ["--epochs", "2", "--no-compare"]
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with everything on, two epochs long, and what it printed."""
    out = tmp_path_factory.mktemp("cli") / "run"
    command = [sys.executable, "-m", "bayes_htr", "fit", "--epochs", "2", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return out, done.stdout


def test_defaults_make_fit_alone_work():
    args = build_parser().parse_args(["fit"])
    assert (args.data, args.net, args.method, args.prior) == ("digits", "mlp", "svi", "lomax")


@pytest.mark.parametrize(
    ("options", "method", "law", "strength", "given"),
    [
        (["--method", "map"], "map", "Lomax", 0.4311, {"lr": 0.05}),
        (["--method", "map", "--prior", "frechet"], "map", "Frechet", 14.37, {}),
        ([], "svi", "Lomax", 1.0, {"noise": "example", "init_scale": 0.3, "lr": 6e-3}),
        (
            ["--prior", "frechet"],
            "svi",
            "Frechet",
            30.0,
            {"guide": "spectral", "lr": 6e-3},
        ),
        (["--prior", "exponential"], "svi", "Exponential", 3.0, {"lr": 6e-3}),
        (["--noise", "shared"], "svi", "Lomax", 1.0, {"noise": "shared"}),
        (["--net", "resnet18"], "svi", "Lomax", 1.0, {"noise": "shared"}),
        (["--guide", "lowrank"], "svi", "Lomax", 1.0, {"noise": "shared"}),
    ],
)
def test_what_fit_takes_if_not_told(options, method, law, strength, given, monkeypatch, tmp_path):
    """The prior, its strength and the noise are those of the method."""
    taken = {}

    def compared(settings, entrants, seeds, out, **more):
        first, *others = entrants
        taken.update(priors=first.priors.to_dict(), method=first.method.describe())
        taken.update(label=first.label, others=[e.label for e in others], seeds=list(seeds))
        if first.label == "posterior":
            assert others[0].priors == first.priors  # the mode under the same prior

    monkeypatch.setattr(commands, "compare", compared)
    monkeypatch.setattr(commands, "show_run", lambda out, console: None)
    assert main(["fit", *options, "--out", str(tmp_path / "run")]) == 0
    assert taken["label"] == ("MAP" if method == "map" else "posterior")
    assert taken["others"] == ["MAP"] * (method == "svi") + ["weight decay", "none"]
    assert taken["seeds"] == [0]
    assert law in json.dumps(taken["priors"])
    assert taken["priors"].get("strength", 1.0) == pytest.approx(strength)
    assert taken["method"]["name"] == method
    assert {name: taken["method"][name] for name in given} == given


def test_last_line_holds_the_test_scores(run):
    out, printed = run
    line = printed.strip().splitlines()[-1]
    assert re.fullmatch(r"test_accuracy=0\.\d{4} test_nll=\S+ test_ece=\S+ test_brier=\S+", line)
    scores = json.loads((out / "results.json").read_text())["scores"]["posterior"]
    assert f"test_accuracy={scores['accuracy']:.4f}" in line


def test_both_tables_are_printed(run):
    _, printed = run
    labels = ("posterior", "MAP", "none", "weight decay", "plain training")
    for label in (*labels, "fc1.weight", "alpha", "stable rank", "whose start was searched"):
        assert label in printed


def test_run_folder_is_complete_and_loads(run):
    out, _ = run
    names = {p.name for p in out.iterdir()}
    assert names == {
        "checkpoint.pt", "command.json", "compare", "config.json", "digests.json",
        "guide.safetensors", "metrics.jsonl", "results.json", "spectra.png", "spectra.safetensors",
        "spectra_before.safetensors", "training.png", "weights.safetensors",
    }  # fmt: skip
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    posterior = htr.load(out, build_network("mlp", (1, 8, 8), 10))
    assert posterior.priors.strength == 1
    for picture in ("spectra.png", "training.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")


def test_scores_are_those_of_the_saved_posterior(run):
    out, _ = run
    data = load_dataset("digits")
    posterior = htr.load(out, build_network("mlp", (1, 8, 8), 10))
    scores = posterior.evaluate((data.x_test, data.y_test))
    assert RunReport.read(out).scores["posterior"] == pytest.approx(scores)


def test_report_shows_the_same_again(run, capsys):
    out, printed = run
    assert main(["report", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == printed.strip().splitlines()[-1]


def test_compared_runs_start_alike(run):
    """The same order and weights: without a prior the first epoch's loss is the likelihood's."""
    out, _ = run
    history = RunReport.read(out).history
    assert set(history) == {"posterior", "MAP", "none", "weight decay"}
    none = history["none"][0]
    assert none["energy"] == 0.0
    assert none["loss"] == pytest.approx(none["train_nll"])


def test_resume_goes_on_to_more_epochs(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["fit", *QUICK, "--out", str(out)]) == 0
    more = ["fit", "--epochs", "3", "--no-compare", "--out", str(out), "--resume"]
    assert main(more) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert "test_accuracy=" in capsys.readouterr().out


@pytest.mark.long
def test_label_smoothing_is_that_of_all_runs_and_not_of_scores(run, tmp_path):
    first, _ = run
    out = tmp_path / "run"
    assert main(["fit", "--epochs", "2", "--out", str(out), "--label-smoothing", "0.2"]) == 0
    for folder in ("", "compare/none", "compare/weight_decay"):
        configs = [json.loads((f / folder / "config.json").read_text()) for f in (out, first)]
        assert [config["label_smoothing"] for config in configs] == [0.2, 0.0]
        rows = [(f / folder / "metrics.jsonl").read_text().splitlines()[-1] for f in (out, first)]
        smooth, plain = (json.loads(row)["train_nll"] for row in rows)
        assert smooth > plain + 0.3  # the entropy of the soft labels is 0.9
    data = load_dataset("digits")
    probs = htr.load(out, build_network("mlp", (1, 8, 8), 10)).predict(data.x_test).probs
    nll = -probs.double().log()[range(len(probs)), data.y_test].mean().item()
    assert RunReport.read(out).scores["posterior"]["nll"] == pytest.approx(nll, rel=1e-5)


@pytest.mark.long
def test_two_processes(tmp_path):
    """The same weights, but for rounding, in all runs; printed once."""
    one, out = tmp_path / "one", tmp_path / "two"
    options = ["fit", "--method", "map", "--epochs", "2", "--device", "cpu", "--out"]
    assert main([*options, str(one)]) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    fit = ["-m", "bayes_htr", *options, str(out)]
    environment = os.environ | {"PYTHONPATH": str(Path(htr.__file__).parents[1])}
    done = subprocess.run(
        [*launcher, "--nproc-per-node", "2", *fit], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test_accuracy=") == done.stdout.count("training examples") == 1
    assert {p.name for p in out.iterdir()} == {p.name for p in one.iterdir()}
    for folder in ("", "compare/none", "compare/weight_decay"):
        found, expected = (load_file(f / folder / "weights.safetensors") for f in (out, one))
        assert found.keys() == expected.keys()
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5)


@pytest.mark.long
def test_several_seeds_in_several_processes(run, tmp_path, capsys):
    """Of each seed the fits are those of a run alone; scores are means, with errors."""
    out = tmp_path / "run"
    options = ["--epochs", "2", "--out", str(out)]
    assert main(["fit", "--seeds", "2", *options]) == 0
    printed = capsys.readouterr().out
    for words in ("mean ± standard error over 2 seeds", "Paired differences", "with seed 0"):
        assert words in printed
    assert len(re.findall(r"^(posterior|MAP|weight decay|none), seed [01]: ", printed, re.M)) == 8
    first, _ = run
    report = RunReport.read(out)
    assert report.seeds == [0, 1]
    for label, rows in report.by_seed.items():
        assert rows[0] == pytest.approx(RunReport.read(first).scores[label], rel=1e-6)
        assert rows[1] != rows[0]
    values = [row["nll"] for row in report.by_seed["posterior"]]
    mean, error = sum(values) / 2, abs(values[0] - values[1]) / 2
    assert f"{mean:.3f}±{error:.3f}" in printed
    assert f"test_nll={mean:.4f}" in printed.strip().splitlines()[-1]
    for folder in ("", "compare/map"):
        found, expected = (load_file(f / folder / "weights.safetensors") for f in (out, first))
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name])
    other = out / "seeds" / "1"
    assert htr.load(other / "compare" / "none", build_network("mlp", (1, 8, 8), 10)).priors == (
        htr.Priors({})
    )
    assert json.loads((other / "config.json").read_text())["seed"] == 1
    assert main(["fit", "--seeds", "2", *options]) == 1
    assert "not empty" in capsys.readouterr().err
    assert main(["fit", "--seeds", "2", "--resume", *options]) == 0
    assert RunReport.read(out).by_seed == report.by_seed


@pytest.mark.long
def test_members_make_a_mixture_of_every_fit(run, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--epochs", "2", "--members", "2", "--no-compare", "--out", str(out)]
    assert main(["fit", *options]) == 0
    assert "1 fit of 2 members and 2 epochs" in capsys.readouterr().out
    net = build_network("mlp", (1, 8, 8), 10)
    mixture = htr.load(out, net)
    assert len(mixture.members) == 2
    alone = load_file(run[0] / "weights.safetensors")
    found = load_file(out / "members" / "0" / "weights.safetensors")
    for name, value in found.items():
        torch.testing.assert_close(value, alone[name])
    before = RunReport.read(out).scores
    assert main(["fit", *options, "--resume"]) == 0
    assert RunReport.read(out).scores == before
    assert main(["fit", *options[:-1], str(tmp_path / "other"), "--init", str(out)]) == 0
    started = htr.load(tmp_path / "other", net)
    assert len(started.members) == 2


@pytest.mark.long
def test_an_error_in_one_of_several_processes_is_that_of_the_run(tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--method", "map", "--lr", "1e9", "--epochs", "2", "--out", str(out)]
    assert main(["fit", "--seeds", "2", *options]) == 1
    assert "diverged" in capsys.readouterr().err
    assert not (out / "results.json").exists()


def test_every_mark_in_the_docs_has_a_part_of_the_demo(run):
    demo = runpy.run_path(str(ROOT / "docs" / "update_demo.py"))
    found = demo["parts"](RunReport.read(run[0]))
    marks = set()
    for page in demo["PAGES"]:
        marks |= {match[2] for match in demo["MARKS"].finditer((ROOT / page).read_text())}
    assert marks == {"scores", "differences", "spectra"}
    assert marks <= found.keys()
    assert "posterior" in found["scores"] and "plain training" in found["spectra"]


def test_runs_compared_with_a_mode_are_trained_like_it(tmp_path):
    out = tmp_path / "run"
    options = ["--method", "map", "--lr", "0.01", "--epochs", "1", "--out", str(out)]
    assert main(["fit", *options]) == 0
    folders = ("", "compare/none", "compare/weight_decay")
    configs = [json.loads((out / f / "config.json").read_text()) for f in folders]
    assert [config["method"]["lr"] for config in configs] == [0.01] * 3


def test_a_file_of_any_name_is_a_file_of_priors(tmp_path):
    """`none.toml` is no plain training, and hides none of the runs that are compared."""
    file, out = tmp_path / "none.toml", tmp_path / "run"
    file.write_text('[priors."fc1.weight"]\ntype = "ESD"\nlaw = { type = "Lomax", alpha = 2.0 }\n')
    options = ["--method", "map", "--prior", str(file), "--epochs", "1", "--out", str(out)]
    assert main(["fit", *options]) == 0
    assert list(RunReport.read(out).by_seed) == ["MAP", "weight decay", "none"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "message"),
    [(["--seed", "1"], "give --seed 0"), (["--seeds", "2"], "leave out --seeds")],
)
def test_no_start_has_seen_the_test_images(run, tmp_path, capsys, options, message):
    out = tmp_path / "run"
    assert main(["fit", *QUICK, "--init", str(run[0]), "--out", str(out), *options]) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_run_of_an_earlier_version_is_shown(run, tmp_path, capsys):
    """Scores without seeds, labels with the prior's name."""
    old = tmp_path / "old"
    shutil.copytree(run[0], old)
    results = json.loads((old / "results.json").read_text())
    names = {"posterior": "lomax", "weight decay": "weight_decay", "none": "none"}
    for key in ("scores", "runs"):
        results[key] = {names[k]: v for k, v in results[key].items() if k in names}
    del results["seeds"], results["by_seed"]
    (old / "results.json").write_text(json.dumps(results))
    (old / "digests.json").unlink()
    assert main(["report", str(old)]) == 0
    printed = capsys.readouterr().out
    assert "weight_decay" in printed and "plain training" in printed


def test_an_error_is_printed_once_however_many_processes(tmp_path, capsys, monkeypatch):
    for rank in (1, 0):  # before they meet
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert main(["fit", *QUICK, "--device", "cuda:1", "--out", str(tmp_path / "run")]) == 1
        assert ("device='cuda:1'" in capsys.readouterr().err) == (rank == 0)


def test_priors_from_a_file(tmp_path):
    file = tmp_path / "priors.toml"
    file.write_text('[priors."fc1.weight"]\ntype = "ESD"\nlaw = { type = "Lomax", alpha = 2.0 }\n')
    out = tmp_path / "run"
    assert main(["fit", *QUICK, "--prior", str(file), "--strength", "3", "--out", str(out)]) == 0
    posterior = htr.load(out, build_network("mlp", (1, 8, 8), 10))
    assert posterior.priors == htr.Priors({"fc1.weight": htr.ESD(htr.Lomax(2.0))}).scaled(3.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prior", "cauchy"], "cauchy"),
        (["--prior", "missing.toml"], "missing.toml"),
        (["--lr", "-1"], "lr=-1.0"),
        (["--epochs", "-1"], "epochs=-1"),
        (["--batch-size", "0"], "batch_size=0"),
        (["--strength", "-2"], "strength=-2.0"),
        (["--net", "lenet5"], "28x28"),
        (["--data", "kmnist", "--data-dir", "nowhere"], "nowhere"),
        (["--device", "abacus"], "abacus"),
        (["--data-dir", "somewhere"], "--data-dir"),
        (["--threads", "0"], "--threads 0"),
        (["--label-smoothing", "1"], "label_smoothing=1.0"),
        (["--method", "map", "--lr", "1e9"], "diverged"),
    ],
)
def test_bad_input_is_named_and_no_result_is_written(tmp_path, capsys, options, message):
    out = tmp_path / "run"
    assert main(["fit", *QUICK, "--out", str(out), *options]) == 1
    assert message in capsys.readouterr().err
    diverged = message == "diverged"  # that one leaves its last good checkpoint
    assert out.exists() == diverged
    assert not (out / "weights.safetensors").exists()


def test_used_folder_is_refused_and_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("words")
    assert main(["fit", *QUICK, "--out", str(tmp_path)]) == 1
    assert "not empty" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_resume_needs_a_folder(capsys):
    assert main(["fit", "--resume"]) == 1
    assert "--resume DIR" in capsys.readouterr().err


def test_resume_reads_the_options_of_the_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *QUICK, "--method", "map", "--lr", "0.02", "--out", "run"]) == 0
    first = RunFolder("run").config()
    monkeypatch.chdir("/")
    run = str(tmp_path / "run")
    assert main(["fit", "--resume", run, "--epochs", "3"]) == 0
    again = RunFolder(run).config()
    assert again["method"] == first["method"]
    assert again["method"]["lr"] == 0.02
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [1, 2, 3]
    assert main(["fit", "--resume", run, "--lr", "0.02"]) == 0
    capsys.readouterr()
    assert main(["fit", "--resume", run, "--lr", "0.1"]) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert "--lr 0.1: the run in" in message
    assert "has 0.02. Leave --lr out" in message
    assert main(["fit", "--resume", run, "--out", str(tmp_path / "other")]) == 1
    assert "two folders" in capsys.readouterr().err
    assert main(["fit", "--resume", str(tmp_path / "none")]) == 1
    assert "has no command.json" in capsys.readouterr().err
    (tmp_path / "run" / "command.json").write_text("[]")
    assert main(["fit", "--resume", run]) == 1
    assert "does not hold the options" in capsys.readouterr().err


def test_a_command_that_was_stopped_before_its_first_fit_goes_on(tmp_path):
    """Only the options are there, which were written first."""
    out = tmp_path / "run"
    assert main(["fit", *QUICK, "--method", "map", "--out", str(out)]) == 0
    for path in out.iterdir():
        if path.name != "command.json":
            path.unlink()
    assert main(["fit", "--resume", str(out)]) == 0
    assert (out / "results.json").exists()


def test_resume_of_another_data_set_is_refused(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["fit", *QUICK, "--out", str(out)]) == 0
    config = json.loads((out / "config.json").read_text())
    config["metadata"]["data"] = "kmnist"
    RunFolder(out).write_json("config.json", config)
    assert main(["fit", *QUICK, "--out", str(out), "--resume"]) == 1
    assert "metadata" in capsys.readouterr().err


BROKEN = {
    "truncated": '{"scores": ',
    "foreign": "[]",
    "empty": '{"scores": {}, "runs": {}}',
    "no scores": '{"scores": {"a": 1}, "runs": {"a": "."}}',
    "outside": '{"scores": {"a": {"accuracy": 1, "nll": 1, "ece": 1, "brier": 1}},'
    ' "runs": {"a": "../elsewhere"}}',
}


@pytest.mark.parametrize("broken", ["nothing", *BROKEN])
def test_report_of_no_run(tmp_path, capsys, broken):
    if broken != "nothing":
        (tmp_path / "config.json").write_text('{"format": 1}')
        (tmp_path / "results.json").write_text(BROKEN[broken])
    assert main(["report", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err


def test_without_matplotlib_a_run_still_reports(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    out = tmp_path / "run"
    assert main(["fit", *QUICK, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "bayes-htr[plot]" in printed
    assert "test_accuracy=" in printed
    assert not list(Path(out).glob("*.png"))


@pytest.mark.long
@pytest.mark.parametrize("guide", ["meanfield", "lowrank"])
def test_svi_from_a_run(run, tmp_path, capsys, guide):
    """It starts from the weights of the other run, which are not changed."""
    first, _ = run
    before = (first / "weights.safetensors").read_bytes()
    out = tmp_path / "run"
    options = ["--guide", guide, "--init", str(first), "--out", str(out)]
    assert main(["fit", *QUICK, "--strength", "1", *options]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert re.fullmatch(r"test_accuracy=0\.\d{4} test_nll=\S+ test_ece=\S+ test_brier=\S+", last)
    assert (first / "weights.safetensors").read_bytes() == before
    config = json.loads((out / "config.json").read_text())
    assert (config["method"]["name"], config["method"]["guide"]) == ("svi", guide)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    earlier = [json.loads(line) for line in (first / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["train_nll"] < earlier[0]["train_nll"] / 1.5
    start = load_file(out / "spectra_before.safetensors")
    net = htr.load(first, build_network("mlp", (1, 8, 8), 10)).network()
    for name in ("fc1.weight", "fc2.weight", "fc3.weight"):
        torch.testing.assert_close(start[name][0], htr.spectrum(net.get_parameter(name)))
    assert rows[0]["loss"] == pytest.approx(rows[0]["train_nll"] + rows[0]["kl"] / 1437)


def test_runs_compared_with_svi_are_those_of_map(run, tmp_path):
    first, _ = run
    out = tmp_path / "run"
    assert main(["fit", "--method", "map", "--epochs", "2", "--out", str(out)]) == 0
    for name in ("none", "weight_decay"):
        file = Path("compare", name, "weights.safetensors")
        found, expected = load_file(out / file), load_file(first / file)
        for key, value in found.items():
            torch.testing.assert_close(value, expected[key])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "map", "--guide", "lowrank"], "--method map"),
        (["--method", "map", "--noise", "shared"], "--method map"),
        (["--guide", "lowrank", "--noise", "example"], "noise='shared'"),
        (["--prior", "powerlaw"], "--prior frechet, lomax, exponential"),
        (["--prior", "stable_rank"], "weight_decay"),
        (["--prior", "none"], "--method map"),
        (["--init", "nowhere"], "nowhere"),
    ],
)
def test_bad_options_of_svi_are_named(tmp_path, capsys, options, message):
    out = tmp_path / "run"
    assert main(["fit", *QUICK, "--out", str(out), *options]) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "python -m benchmarks --help"),
        (["growth", "--out", "a b", "--help"], "python -m benchmarks growth --out 'a b' --help"),
    ],
)
def test_bench_says_where_benchmarks_are(words, told, capsys):
    assert main(["bench", *words]) == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        f"bayes-htr: benchmarks are run from a clone of the repository: {told}"
    ]
    assert printed.out == ""


@pytest.mark.parametrize("command", ["fit", "analyze"])
def test_help_tells_defaults_only_where_there_are_some(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert "(default: " in shown
    assert "None)" not in shown and "False)" not in shown


def test_help_has_the_options_of_svi(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    printed = capsys.readouterr().out
    for option in ("--method {map,svi}", "--guide", "meanfield", "lowrank", "--init RUN"):
        assert option in printed


@pytest.mark.slow
def test_the_demo_shows_what_the_method_is_for(tmp_path, capsys):
    """What README says of `make demo`, with its five seeds."""
    out = tmp_path / "demo"
    assert main(["fit", "--seeds", "5", "--out", str(out)]) == 0
    report = RunReport.read(out)
    scores = {
        label: {name: np.array([row[name] for row in rows]) for name in rows[0]}
        for label, rows in report.by_seed.items()
    }
    labels = ("posterior", "none", "weight decay", "MAP")
    posterior, none, decay, mode = (scores[label] for label in labels)
    assert posterior["accuracy"].mean() >= 0.98
    assert posterior["nll"].mean() <= 0.8 * none["nll"].mean()
    assert posterior["nll"].mean() < 0.9 * decay["nll"].mean()
    assert stats.ttest_rel(posterior["nll"], mode["nll"]).pvalue < 0.05
    _, plain = report.beside
    for name in ("fc1.weight", "fc2.weight"):
        assert report.spectra.alpha(name).high < plain.alpha(name).low
    assert report.spectra.row("fc3.weight").alpha is None
    assert "tied" not in capsys.readouterr().out


@pytest.mark.long
def test_the_strength_is_chosen_by_itself(tmp_path, capsys, monkeypatch):
    """The trials are in the run folder and in what is printed; the fit has the best strength."""
    out = tmp_path / "run"
    command = ["fit", *QUICK, "--method", "map", "--strength", "auto", "--out", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    trials = json.loads((out / "tuning.json").read_text())["trials"]
    assert 2 <= len(trials) <= 5
    chosen = smoothed_minimum([Trial.from_dict(trial) for trial in trials])
    assert RunFolder(out).config()["priors"]["strength"] == pytest.approx(chosen)
    assert "outcome" in printed
    assert f"chosen strength: {chosen:.3g}" in printed
    assert (out / "tuning.png").exists()
    monkeypatch.setattr("bayes_htr.tuning.trials._fitted", None)  # no trial is trained again
    assert main([*command, "--resume"]) == 0
    with pytest.raises(SystemExit):
        build_parser().parse_args(["fit", "--strength", "much"])


def test_json_is_all_that_is_printed(run, capfd):
    out, _ = run
    assert main(["report", str(out), "--json"]) == 0
    output = capfd.readouterr()
    found = json.loads(output.out)
    results = json.loads((out / "results.json").read_text())
    assert found["folder"] == str(out)
    assert found["seeds"] == [0]
    assert found["scores"].keys() == results["scores"].keys()
    for label, scores in found["scores"].items():
        assert scores == pytest.approx({k: results["scores"][label][k] for k in scores})
    assert output.err == ""


def test_quiet_prints_errors_alone(run, capfd, tmp_path):
    out, _ = run
    assert main(["report", str(out), "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")
    assert main(["report", str(tmp_path), "--quiet"]) == 1
    assert "holds no run" in capfd.readouterr().err


def test_json_of_an_analysis(tmp_path, capfd):
    file = tmp_path / "weights.pt"
    torch.save({"fc.weight": torch.randn(40, 30)}, file)
    words = ["analyze", str(file), "--bootstrap", "0", "--json"]
    assert main(words) == 0
    found = json.loads(capfd.readouterr().out)
    report = htr.analyze(file, bootstrap=0)
    assert [row["name"] for row in found["rows"]] == ["fc.weight"]
    assert found["rows"][0]["alpha"] == pytest.approx(report.rows[0]["alpha"])


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion(shell, capfd):
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capfd.readouterr().out
    options = () if shell == "tcsh" else ("--label-smoothing", "resnet18")  # shtab gives it none
    for word in ("analyze", "report", *options):
        assert word in script


def test_completion_without_its_package(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert 'pip install "bayes-htr[completion]"' in capfd.readouterr().err


def test_fit_and_predict_on_a_table_of_ones_own(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    kinds = [("red", "green")[int(row[0] > 0)] for row in x]
    lines = [f"{a},{b},{c},{k}" for (a, b, c), k in zip(x.tolist(), kinds, strict=True)]
    Path("table.csv").write_text("\n".join(["a,b,c,kind", *lines]) + "\n")
    words = ["fit", "--data", "table.csv", "--target", "kind", "--out", "run", *QUICK]
    assert main([*words, "--method", "map", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["scores"].keys() == {"MAP"}
    assert main(["predict", "run", "table.csv", "--out", "found.csv"]) == 0
    assert "and 50 more" in capfd.readouterr().out
    assert main(["predict", "run", "table.csv", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)["predictions"]
    assert len(rows) == 60
    assert sum(row["class"] == kind for row, kind in zip(rows, kinds, strict=True)) > 50
    assert rows[0]["probability:red"] + rows[0]["probability:green"] == pytest.approx(1)
    header, first, *_ = Path("found.csv").read_text().splitlines()
    assert header.startswith("class,probability,entropy,mutual_information,probability:green")
    assert first.startswith(rows[0]["class"])


def test_predict_by_a_run_on_digits(run, capfd, tmp_path):
    out, _ = run
    digits = load_digits()
    np.savez(tmp_path / "x.npz", X=digits.images)
    np.savez(tmp_path / "rows.npz", X=digits.data)
    assert main(["predict", str(out), str(tmp_path / "x.npz"), "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)["predictions"]
    right = [row["class"] == str(y) for row, y in zip(rows, digits.target, strict=True)]
    data = load_dataset("digits", seed=0)
    posterior = htr.load(out, build_network("mlp", data.input_shape, 10))
    labels = posterior.predict(data.x_test).labels
    assert np.mean(right) == pytest.approx(float((labels == data.y_test).double().mean()), abs=0.1)
    assert main(["predict", str(out), str(tmp_path / "rows.npz"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["predictions"] == rows
    np.savez(tmp_path / "small.npz", X=np.zeros((2, 7, 8)))
    assert main(["predict", str(out), str(tmp_path / "small.npz")]) == 1
    assert "(1, 7, 8), and the network was trained on (1, 8, 8)" in capfd.readouterr().err


def test_predict_needs_a_run_of_the_command_line(run, capfd, tmp_path):
    out, _ = run
    posterior = htr.load(out, build_network("mlp", (1, 8, 8), 10))
    posterior.save(tmp_path / "own")
    np.savez(tmp_path / "x.npz", X=np.zeros((2, 8, 8)))
    RunFolder(tmp_path / "own").config()
    assert main(["predict", str(tmp_path / "own"), str(tmp_path / "x.npz")]) == 1
    assert "htr.load(folder, net).predict(X)" in " ".join(capfd.readouterr().err.split())


def test_a_data_set_that_is_none_is_named(capfd):
    with pytest.raises(SystemExit):
        main(["fit", "--data", "digitz"])
    assert "'digitz': give digits, fashion_mnist" in " ".join(capfd.readouterr().err.split())

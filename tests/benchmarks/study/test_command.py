"""`study`, end to end: generalisation on a few digits, posteriors on a few random images."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from benchmarks.__main__ import build_parser, main
from benchmarks.study import command, runs
from benchmarks.study.cells import Base
from benchmarks.study.log import Log
from benchmarks.study.methods import GENERALISATION
from benchmarks.study.outcomes import Outcomes
from benchmarks.study.runs import Run, perform
from benchmarks.study.studies import STUDIES

FEW = ("none", "weight_decay", "spectral_norm", "frechet", "stable_rank", "stable_rank_above")
CELL = "mlp-digits"
FILE = "generalisation.jsonl"
STUDY = STUDIES["generalisation"]
TUNING_SEEDS = STUDY.tuning_seeds


def study(out, *more):
    given = ["--out", str(out), "--cells", CELL, "--methods", *FEW, "--processes", "1"]
    return ["study", "generalisation", *given, "--seeds", "2", "--epochs", "1", *more]


def in_this_process(patch):
    """Runs in this process, which are noted, and no report, which has tests of its own."""
    noted = []

    def run_all(label, runs, work, done, **processes):
        for run in runs:
            noted.append(run)
            done(run, work(run))

    patch.setattr(command, "run_all", run_all)
    patch.setattr(command, "write_report", lambda log, study, console: None)
    return noted


@pytest.fixture
def in_process(monkeypatch):
    return in_this_process(monkeypatch)


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A study of a few methods on digits, one epoch each, two trials of each."""
    out = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        in_this_process(patch)
        assert main(study(out, "--trials", "2")) == 0
    return out


def test_choices_come_before_test_images_are_seen(studied):
    lines = Log(studied, "generalisation").lines
    tested = [i for i, line in enumerate(lines) if line["settings"].get("tested")]
    chosen = [i for i, line in enumerate(lines) if line["kind"] in ("base", "numbers", "entrants")]
    assert len(tested) == 2 * len(FEW)
    assert max(chosen) < min(tested)
    for line in lines:
        if line["kind"] == "run" and not line["settings"]["tested"]:
            assert "test" not in line["result"]
            assert line["settings"]["seed"] in TUNING_SEEDS


def test_jobs_of_an_array_share_out_the_runs(studied, tmp_path, monkeypatch, capsys):
    whole = Log(studied, "generalisation")

    def found(study, run, data_dir, device):
        return whole.get("run", **run.settings())["result"]

    monkeypatch.setattr(command, "perform", found)
    performed = in_this_process(monkeypatch)
    for _ in range(20):
        before = len(performed)
        for part in ("1/2", "2/2"):
            assert main(study(tmp_path, "--trials", "2", "--part", part)) == 0
        if len(performed) == before:
            break
    settings = [json.dumps(run.settings()) for run in performed]
    assert len(settings) == len(set(settings)) == len(whole.of("run"))
    assert Log(tmp_path, "generalisation").of("entrants") == whole.of("entrants")
    assert "runs of other parts are missing; start all parts again" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["0/2", "3/2", "one", "1/0", "1/2/3"])
def test_parts_that_are_none_are_refused(part, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(study(tmp_path, "--part", part))
    assert f"'{part}': give I/N" in capsys.readouterr().err


def test_the_best_trial_of_validation_images_is_chosen(studied):
    log = Log(studied, "generalisation")
    for method in FEW[1:]:
        scored = {}
        for line in log.of("run"):
            s = line["settings"]
            if s["method"] == method and not s["tested"]:
                key = json.dumps(s["numbers"], sort_keys=True)
                scored.setdefault(key, []).append(line["result"]["validation"]["brier"])
        assert len(scored) == 2
        assert {len(v) for v in scored.values()} == {2}
        best = min(scored, key=lambda key: np.mean(scored[key]))
        chosen = log.find("numbers", cell=CELL, method=method)
        assert json.dumps(chosen["numbers"], sort_keys=True) == best
        assert chosen["score"] == pytest.approx(np.mean(scored[best]))
        for line in log.of("run"):
            if line["settings"]["method"] == method and line["settings"]["tested"]:
                assert line["settings"]["numbers"] == chosen["numbers"]


def test_the_best_way_to_train_is_chosen(studied):
    log = Log(studied, "generalisation")
    scored = {}
    for line in log.of("run"):
        s = line["settings"]
        if s["method"] == "none" and not s["tested"]:
            found = scored.setdefault(json.dumps(s["base"], sort_keys=True), [])
            found.append(line["result"])
    means = {key: np.mean([r["validation"]["brier"] for r in own]) for key, own in scored.items()}
    assert len(means) == 6
    base = log.find("base", cell=CELL)
    best = json.dumps(base["base"], sort_keys=True)
    assert base["score"] == pytest.approx(min(means.values())) == means[best]
    for name, end in base["ends"].items():
        assert end == pytest.approx(np.mean([r["ends"][name] for r in scored[best]]))


def test_entrants_are_the_best_of_their_families(studied):
    log = Log(studied, "generalisation")
    entrants = log.find("entrants", cell=CELL)["entrants"]
    for family, entrant in entrants.items():
        of_family = [m for m in FEW if GENERALISATION[m].family == family]
        score = {m: log.find("numbers", cell=CELL, method=m)["score"] for m in of_family}
        assert score[entrant] == min(score.values())
    assert set(entrants) == {"conventional", "heavy-tailed"}


def test_it_goes_on_where_it_stopped(studied, tmp_path, in_process, capsys):
    whole = (studied / FILE).read_bytes()
    lines = whole.splitlines(keepends=True)
    # Cut within the last line but four.
    (tmp_path / FILE).write_bytes(b"".join(lines[:-5]) + lines[-5][:40])
    assert main(study(tmp_path, "--trials", "2")) == 0
    assert len(in_process) == 5
    in_process.clear()
    again = Log(tmp_path, "generalisation")

    def told(log):
        return [(line["kind"], line["settings"]) for line in log.lines]

    assert told(again) == told(Log(studied, "generalisation"))
    assert main(study(tmp_path, "--trials", "2")) == 0
    assert in_process == []


def test_runs_repeat_exactly(studied):
    log = Log(studied, "generalisation")
    for line in [log.of("run")[0], log.of("run")[-1]]:
        s = dict(line["settings"])
        again = perform(STUDY, Run(**{**s, "base": Base(**s["base"])}), None, "cpu")
        assert again["validation"] == line["result"]["validation"]
        assert again.get("right") == line["result"].get("right")


def test_entrants_stay_when_methods_are_added(studied, tmp_path, in_process):
    (tmp_path / FILE).write_bytes((studied / FILE).read_bytes())
    before = Log(tmp_path, "generalisation").find("entrants", cell=CELL)
    command_line = study(tmp_path, "--trials", "2")
    command_line.insert(command_line.index("--processes"), "nuclear_norm")
    assert main(command_line) == 0
    log = Log(tmp_path, "generalisation")
    assert log.of("entrants") == [before]
    assert "nuclear_norm" in Outcomes(log, STUDY).methods(CELL)


def test_the_report(studied, capsys):
    assert main(["study", "report", "--out", str(studied)]) == 0
    printed = capsys.readouterr().out
    for word in ("Confirmatory", "Exploratory", "(entrant)", "lower threshold", "correlation"):
        assert word in printed
    for name in ("forest", "alpha", "curves"):
        assert (studied / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = (studied / "generalisation.md").read_text()
    assert "Holm over cells" in page
    assert str(studied) not in page
    latex = (studied / "generalisation.tex").read_text()
    assert latex.count(r"\begin{tabular}") == page.count("\n## ") - 1
    assert r"accuracy, \%" in latex


def test_other_options_in_the_same_folder(studied, capsys):
    assert main(study(studied, "--trials", "3")) == 1
    assert "holds a study with" in capsys.readouterr().err


def test_a_report_of_nothing(tmp_path, capsys):
    assert main(["study", "report", "--out", str(tmp_path)]) == 1
    assert "holds no runs" in capsys.readouterr().err


def test_a_foreign_file(tmp_path, capsys):
    (tmp_path / FILE).write_text('{"kind": "run"}\n')
    assert main(["study", "report", "--out", str(tmp_path)]) == 1
    assert "line 1" in capsys.readouterr().err
    assert (tmp_path / FILE).read_text() == '{"kind": "run"}\n'


def test_missing_data_are_missed_before_anything_is_trained(tmp_path, in_process, capsys):
    command_line = [*study(tmp_path / "out"), "--data-dir", str(tmp_path)]
    command_line[command_line.index(CELL)] = "mlp-kmnist"
    assert main(command_line) == 1
    assert "kmnist.npz" in capsys.readouterr().err
    assert in_process == []
    assert not (tmp_path / "out").exists()


def posterior(out, data_dir, *methods):
    given = ["--out", str(out), "--data-dir", str(data_dir), "--cells", "kmnist", "--trials", "2"]
    short = ["--seeds", "2", "--samples", "2", "--batch-size", "8", "--epochs", "1"]
    few = ["--validation", "6", "--ood", "4", "--processes", "1"]
    return ["study", "posterior", *given, *short, *few, "--methods", *methods]


def test_choices_of_another_study_are_options(tmp_path, monkeypatch):
    """With them nothing is tried, and runs have the numbers that were chosen there."""
    noted = in_this_process(monkeypatch)
    other = Log(tmp_path / "other", "generalisation")
    base = {"epochs": 2, "lr": 0.3, "schedule": "constant"}
    other.append("base", {"cell": "mlp-digits"}, score=0.1, base=base, ends={})
    for method, numbers in (("none", {}), ("weight_decay", {"mu": 0.7})):
        settings = {"cell": "mlp-digits", "method": method}
        other.append("numbers", settings, score=0.1, numbers=numbers)
    given = ["--cells", "mlp-digits", "--methods", "none", "weight_decay", "--seeds", "1"]
    out = ["--choices", str(other.path), "--out", str(tmp_path / "own")]
    assert main(["study", "mixtures", *given, *out]) == 0
    runs = [(run.method, run.numbers, run.base.lr, run.tested) for run in noted]
    assert runs == [("none", {}, 0.3, True), ("weight_decay", {"mu": 0.7}, 0.3, True)]


def test_a_missing_package_is_reported_before_any_training(tmp_path, capsys, monkeypatch):
    noted = in_this_process(monkeypatch)
    monkeypatch.setitem(sys.modules, "ivon", None)
    given = ["--cells", "mlp-digits", "--methods", "ivon", "--out", str(tmp_path / "out")]
    assert main(["study", "mixtures", *given]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert 'needs ivon-opt: pip install "bayes-htr[peers]"' in error
    assert not noted
    assert not (tmp_path / "out").exists()


def test_the_study_of_posteriors(tmp_path, data_dir, capsys, monkeypatch):
    report = command.write_report
    noted = in_this_process(monkeypatch)
    monkeypatch.setattr(command, "write_report", report)
    monkeypatch.setattr(runs, "_started", {})
    methods = ("map_plain", "map_decay", "ensemble", "spectral_lomax_map")
    assert main(posterior(tmp_path, data_dir, *methods)) == 0
    printed = capsys.readouterr().out
    for word in ("OOD AUROC", "after temperature scaling", "tuning on validation NLL"):
        assert word in printed
    log = Log(tmp_path, "posterior")
    seen = {}
    for line in log.of("run"):
        s = line["settings"]
        seen.setdefault((s["method"], s["tested"]), []).append(s)
    # What a method starts from is tuned, but tested only if it was asked for.
    assert {key: len(found) for key, found in seen.items()} == {
        ("map_frechet", False): 2,
        ("map_decay", False): 2,
        ("spectral_lomax_map", False): 2,
        **{(method, True): 2 for method in methods},
    }
    chosen = log.find("numbers", cell="kmnist", method="map_frechet")
    scores = {
        json.dumps(line["settings"]["numbers"]): line["result"]["validation"]["nll"]
        for line in log.of("run")
        if line["settings"]["method"] == "map_frechet"
    }
    assert chosen["score"] == min(scores.values()) == scores[json.dumps(chosen["numbers"])]
    assert {json.dumps(s["start"]) for s in seen["spectral_lomax_map", True]} == {
        json.dumps(chosen["numbers"])
    }
    assert (tmp_path / "posterior.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "posterior.md").read_text()
    assert "differences to MAP, weight decay" in page
    assert "num_data 18, batch_size 8, samples 2 (kmnist)" in page
    assert str(data_dir) not in page

    noted.clear()
    assert main(posterior(tmp_path, data_dir, *methods)) == 0
    assert noted == []
    assert "tests: 8 runs, 8 of them there already" in capsys.readouterr().out


def test_too_many_validation_images(tmp_path, data_dir, capsys):
    command_line = posterior(tmp_path, data_dir, "map_plain")
    command_line[command_line.index("--validation") + 1] = "24"
    assert main(command_line) == 1
    assert "24 validation images of 24 training images" in capsys.readouterr().err


def test_a_quick_look_sets_what_is_not_given():
    parser = build_parser()
    words = ["study", "posterior", "--out", "x", "--quick", "--seeds", "2"]
    chosen = command._chosen(parser.parse_args(words))
    assert (chosen["cells"], chosen["seeds"]) == (["kmnist"], 2)
    assert chosen["methods"] == STUDIES["posterior"].quick["methods"]


def test_peers_run_only_if_they_are_named():
    """Since some need packages of their own."""
    words = ["study", "mixtures", "--out", "x"]
    methods = command._chosen(build_parser().parse_args(words))["methods"]
    assert {"none", "svi_lomax"} < set(methods) < set(STUDIES["mixtures"].methods)
    assert all(STUDIES["mixtures"].methods[name].package is None for name in methods)
    words += ["--methods", "swag"]
    assert command._chosen(build_parser().parse_args(words))["methods"] == ["swag"]

"""The study of generalisation, end to end on a few digits, and its parts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bayes_htr.errors import DataError
from benchmarks.__main__ import main
from benchmarks.study.generalisation import command
from benchmarks.study.generalisation.cells import Base
from benchmarks.study.generalisation.fits import Run, perform
from benchmarks.study.generalisation.methods import METHODS
from benchmarks.study.generalisation.outcomes import Outcomes
from benchmarks.study.generalisation.pool import Pool
from benchmarks.study.generalisation.protocol import TUNING_SEEDS, Protocol, Settings
from benchmarks.study.generalisation.run_log import FILE, RunLog

FEW = ("none", "weight_decay", "spectral_norm", "frechet", "stable_rank", "stable_rank_above")
CELL = "mlp-digits"


def study(out, *more):
    given = ["--out", str(out), "--cells", CELL, "--methods", *FEW, "--processes", "1"]
    return ["generalisation", *given, "--seeds", "2", "--epochs", "1", *more]


class InProcess:
    """Runs in this process, of which it keeps account."""

    def __init__(self, *settings):
        self.runs = []
        InProcess.last = self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def work(self, label, runs, done):
        for run in runs:
            self.runs.append(run)
            done(run, perform(run, None, "cpu"))


def trimmed(patch):
    """Runs in this process, and no report, which has tests of its own."""
    patch.setattr(command, "Pool", InProcess)
    patch.setattr(command, "write_report", lambda log, console: None)


@pytest.fixture
def in_process(monkeypatch):
    trimmed(monkeypatch)
    return InProcess


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A study of a few methods on digits, one epoch each, two trials of each."""
    out = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        trimmed(patch)
        assert main(study(out, "--trials", "2")) == 0
    return out


def test_choices_come_before_test_images_are_seen(studied):
    lines = RunLog(studied).lines
    tested = [i for i, line in enumerate(lines) if line["settings"].get("tested")]
    chosen = [i for i, line in enumerate(lines) if line["kind"] in ("base", "numbers", "entrants")]
    assert len(tested) == 2 * len(FEW)
    assert max(chosen) < min(tested)
    for line in lines:
        if line["kind"] == "run" and not line["settings"]["tested"]:
            assert "test" not in line["result"]
            assert line["settings"]["seed"] in TUNING_SEEDS


def test_the_best_trial_of_validation_images_is_chosen(studied):
    log = RunLog(studied)
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
    log = RunLog(studied)
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
    log = RunLog(studied)
    entrants = log.find("entrants", cell=CELL)["entrants"]
    for family, entrant in entrants.items():
        of_family = [m for m in FEW if METHODS[m].family == family]
        score = {m: log.find("numbers", cell=CELL, method=m)["score"] for m in of_family}
        assert score[entrant] == min(score.values())
    assert set(entrants) == {"conventional", "heavy-tailed"}


def test_it_goes_on_where_it_stopped(studied, tmp_path, in_process, capsys):
    whole = (studied / FILE).read_bytes()
    lines = whole.splitlines(keepends=True)
    # Cut within the last line but four.
    (tmp_path / FILE).write_bytes(b"".join(lines[:-5]) + lines[-5][:40])
    assert main(study(tmp_path, "--trials", "2")) == 0
    assert len(in_process.last.runs) == 5
    again = RunLog(tmp_path)

    def told(log):
        return [(line["kind"], line["settings"]) for line in log.lines]

    assert told(again) == told(RunLog(studied))
    assert main(study(tmp_path, "--trials", "2")) == 0
    assert in_process.last.runs == []


def test_runs_repeat_exactly(studied):
    log = RunLog(studied)
    for line in [log.of("run")[0], log.of("run")[-1]]:
        s = dict(line["settings"])
        again = perform(Run(**{**s, "base": Base(**s["base"])}), None, "cpu")
        assert again["validation"] == line["result"]["validation"]
        assert again.get("right") == line["result"].get("right")


def test_entrants_stay_when_methods_are_added(studied, tmp_path, in_process):
    (tmp_path / FILE).write_bytes((studied / FILE).read_bytes())
    before = RunLog(tmp_path).find("entrants", cell=CELL)
    command_line = study(tmp_path, "--trials", "2")
    command_line.insert(command_line.index("--processes"), "nuclear_norm")
    assert main(command_line) == 0
    log = RunLog(tmp_path)
    assert log.of("entrants") == [before]
    assert "nuclear_norm" in Outcomes(log).methods(CELL)


def test_the_report(studied, capsys):
    assert main(["report", "--out", str(studied)]) == 0
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
    assert main(["report", "--out", str(tmp_path)]) == 1
    assert "holds no runs" in capsys.readouterr().err


def test_a_foreign_file(tmp_path, capsys):
    (tmp_path / FILE).write_text('{"kind": "run"}\n')
    assert main(["report", "--out", str(tmp_path)]) == 1
    assert "line 1" in capsys.readouterr().err
    assert (tmp_path / FILE).read_text() == '{"kind": "run"}\n'


def test_entrants_are_not_named_after_test_images_were_seen(tmp_path):
    log = RunLog(tmp_path)
    run = Run(CELL, "none", {}, Base(1, 0.05, "cosine"), 0, {}, tested=True)
    log.append("run", run.settings(), result={"test": {}})
    for method in FEW:
        log.append("numbers", {"cell": CELL, "method": method}, score=0.5, numbers={})
    protocol = Protocol(Settings([CELL, "mlp-kmnist"], FEW), log)
    protocol._choose_entrants(CELL)
    assert log.of("entrants") == []
    for method in FEW:
        log.append("numbers", {"cell": "mlp-kmnist", "method": method}, score=0.5, numbers={})
    protocol._choose_entrants("mlp-kmnist")
    assert [line["settings"] for line in log.of("entrants")] == [{"cell": "mlp-kmnist"}]


def test_missing_data_are_missed_before_anything_is_trained(tmp_path, in_process, capsys):
    in_process.last = None
    command_line = [*study(tmp_path / "out"), "--data-dir", str(tmp_path)]
    command_line[command_line.index(CELL)] = "mlp-kmnist"
    assert main(command_line) == 1
    assert "kmnist.npz" in capsys.readouterr().err
    assert in_process.last is None
    assert not (tmp_path / "out").exists()


def test_a_pool(tmp_path, monkeypatch):
    """In a process of its own a run gives the same as in this one; an error ends the pool."""
    run = Run(CELL, "weight_decay", {"mu": 1e-3}, Base(1, 0.05, "cosine"), 3, {}, tested=False)
    done = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with (
        pytest.raises(DataError, match=r"kmnist\.npz"),
        Pool(1, 1, tmp_path, "cpu") as pool,
    ):
        pool.work("runs", [run], lambda *found: done.append(found))
        pool.work("runs", [replace(run, cell="mlp-kmnist")], lambda *found: done.append(found))
    [(same, result)] = done
    assert same == run
    assert result["validation"] == perform(run, None, "cpu")["validation"]
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.mark.slow
@pytest.mark.parametrize("what", ["ctrl-c", "terminated", "a process killed"])
def test_an_interrupted_study(tmp_path, what):
    """It ends at once with its processes, though their runs would take minutes."""
    words = [sys.executable, "-m", "benchmarks", *study(tmp_path)]
    words[words.index("--epochs") + 1] = "9000"
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        children, worker = [], None
        while worker is None:
            assert process.poll() is None
            time.sleep(0.1)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            commands = {c: Path(f"/proc/{c}/cmdline").read_bytes() for c in children}
            worker = next((c for c, words in commands.items() if b"spawn_main" in words), None)
        while float(Path(f"/proc/{worker}/stat").read_text().split()[13]) < 500:
            time.sleep(0.1)  # until it has had the processor for 5 s: it trains
        number, status, message = {
            "ctrl-c": (signal.SIGINT, 130, "the same command goes on"),
            "terminated": (signal.SIGTERM, -signal.SIGTERM, ""),
            "a process killed": (signal.SIGKILL, 1, "run the command again with fewer"),
        }[what]
        os.kill(int(worker) if what == "a process killed" else process.pid, number)
        started = time.monotonic()
        assert process.wait(20) == status
        assert time.monotonic() - started < 10
        assert message in process.stderr.read()
    while left := [c for c in children if Path(f"/proc/{c}").exists()]:
        assert time.monotonic() - started < 15, left
        time.sleep(0.1)


def test_a_run_that_diverges_is_never_chosen(tmp_path, monkeypatch):
    log = RunLog(tmp_path)
    settings = Settings([CELL], ["none", "weight_decay"], epochs=1, tuning=1)
    stages = iter(Protocol(settings, log).stages())
    scores = {0.0005: None, 0.001: 0.5, 0.002: 0.4}
    for _ in range(2):
        for run in next(stages).runs:
            brier = scores.get(run.numbers.get("mu"), 0.9)
            result = {"validation": {"brier": brier}, "ends": {"stable_rank": 1.0}}
            log.append(
                "run", run.settings(), result={"diverged": "NaN"} if brier is None else result
            )
    next(stages)
    chosen = log.find("numbers", cell=CELL, method="weight_decay")
    assert (chosen["numbers"], chosen["score"]) == ({"mu": 0.002}, 0.4)


def test_a_chosen_method_has_no_more_trials(tmp_path, monkeypatch):
    """Other ranges are for cells to come: a choice that was made stays, at no cost."""
    log = RunLog(tmp_path)
    settings = Settings([CELL], ["none", "weight_decay", "dropout"], epochs=1, tuning=1)
    base = {"epochs": 1, "lr": 0.05, "schedule": "cosine"}
    log.append("base", {"cell": CELL}, score=0.5, base=base, ends={})
    log.append("numbers", {"cell": CELL, "method": "weight_decay"}, score=0.4, numbers={"mu": 7.0})
    protocol = Protocol(settings, log)
    stages = iter(protocol.stages())
    next(stages)
    assert {run.method for run in next(stages).runs} == {"dropout"}
    assert protocol.numbers(CELL, "weight_decay") == {"mu": 7.0}


def test_no_tested_run_has_a_seed_of_trials():
    assert not set(TUNING_SEEDS) & set(range(Settings([], [], seeds=1000).seeds))
    with pytest.raises(ValueError, match="at most 1000"):
        Settings([], [], seeds=1001)

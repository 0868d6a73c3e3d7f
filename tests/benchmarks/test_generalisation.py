"""The study of generalisation, end to end on a few digits, and its parts."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bayes_htr.benchmarks.generalisation import cells, command, fits, methods
from bayes_htr.benchmarks.generalisation.cells import CELLS, Base, split
from bayes_htr.benchmarks.generalisation.fits import Run, packed, perform, unpacked
from bayes_htr.benchmarks.generalisation.methods import METHODS, TUNED, Setting
from bayes_htr.benchmarks.generalisation.outcomes import Outcomes
from bayes_htr.benchmarks.generalisation.protocol import TUNING_SEEDS, Protocol, Settings
from bayes_htr.benchmarks.generalisation.run_log import FILE, RunLog
from bayes_htr.cli import main
from bayes_htr.engine import bind
from bayes_htr.errors import CheckpointError, DataError
from bayes_htr.experiments import build_network

FEW = ("none", "weight_decay", "spectral_norm", "frechet", "stable_rank", "stable_rank_above")
CELL = "mlp-digits"


def study(out, *more):
    given = ["--out", str(out), "--cells", CELL, "--methods", *FEW, "--processes", "1"]
    return ["bench", "generalisation", *given, "--seeds", "2", "--epochs", "1", *more]


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


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr(command, "Pool", InProcess)
    return InProcess


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A study of a few methods on digits, one epoch each, two trials of each."""
    out = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "Pool", InProcess)
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
    assert again.dropped == 0

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
    assert main(["bench", "report", "--out", str(studied)]) == 0
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
    assert main(["bench", "report", "--out", str(tmp_path)]) == 1
    assert "holds no runs" in capsys.readouterr().err


def test_a_foreign_file(tmp_path, capsys):
    (tmp_path / FILE).write_text('{"kind": "run"}\n')
    assert main(["bench", "report", "--out", str(tmp_path)]) == 1
    assert "line 1" in capsys.readouterr().err
    assert (tmp_path / FILE).read_text() == '{"kind": "run"}\n'


def test_processes(tmp_path):
    """In processes of its own, the same results as in this one."""
    assert main([*study(tmp_path, "--trials", "1"), "--methods", "weight_decay"]) == 0
    line = RunLog(tmp_path).of("run")[0]
    s = dict(line["settings"])
    again = perform(Run(**{**s, "base": Base(**s["base"])}), None, "cpu")
    assert again["validation"] == line["result"]["validation"]


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


@pytest.mark.parametrize("name", METHODS)
def test_every_trial_of_every_method(name):
    """Priors fit the network, and each number of a trial changes what is fitted."""
    net = build_network("mlp", (1, 8, 8), 10, seed=0)
    setting = Setting(net, 100, Base(5, 0.05, "cosine"), dict.fromkeys(methods.ENDS, 20.0))
    method = METHODS[name]
    described = []
    for numbers in method.trials:
        priors = method.priors(numbers, setting)
        bind(priors, net)(epoch=0)
        inference = method.inference(numbers, setting).describe()
        outside = {k: v for k, v in numbers.items() if k in ("dropout", "label_smoothing")}
        described.append(json.dumps([priors.to_dict(), inference, outside]))
    assert len(set(described)) == len(method.trials)
    assert len(method.trials) == (6 if name in TUNED else 1)


def test_the_share_of_a_threshold():
    net = build_network("mlp", (1, 8, 8), 10, seed=0)
    setting = Setting(net, 100, Base(5, 0.05, "cosine"), {"stable_rank": 20.0})
    priors = METHODS["stable_rank_above"].priors({"mu": 0.1, "share": 0.5}, setting)
    assert (priors.threshold, priors.strength) == (10.0, 10.0)


def test_splits():
    cell = CELLS[CELL]
    one, same, other = (split(cell, None, seed, "cpu") for seed in (0, 0, 1))
    assert torch.equal(one.train[0], same.train[0])
    assert not torch.equal(one.train[0], other.train[0])
    assert len(one.validation[1]) == cell.validation
    together = torch.cat([one.train[0], one.validation[0]]).flatten(1)
    assert len(together.unique(dim=0)) == len(together)
    with pytest.raises(DataError, match="cuts 5000 validation images"):
        split(replace(cell, validation=5000), None, 0, "cpu")


def test_packing():
    right = torch.rand(21) < 0.5
    assert (unpacked(packed(right), 21) == right.numpy()).all()


def test_what_a_method_is_shrunk_to():
    run = Run(CELL, "none", {}, Base(1, 0.05, "cosine"), 0, {}, tested=True, shrink=4)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        fit = fits.fit
        patch.setattr(
            fits, "fit", lambda m, data, **k: seen.append(len(data[0])) or fit(m, data, **k)
        )
        result = perform(run, None, "cpu")
    whole = len(split(CELLS[CELL], None, 0, "cpu").train[0])
    assert seen == [-(-whole // 4)]
    assert result["images"] == len(cells.test_images(CELLS[CELL], None, "cpu")[1])
    assert len(result["curve"]) == 1


def test_an_ensemble_has_members_of_its_own():
    run = Run(CELL, "ensemble", {}, Base(1, 0.05, "cosine"), 0, {}, tested=True)
    one = replace(run, method="none")
    assert perform(run, None, "cpu")["test"]["nll"] < perform(one, None, "cpu")["test"]["nll"]


def test_the_log_refuses_what_is_no_number(tmp_path):
    log = RunLog(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        log.append("run", {}, result={"nll": float("nan")})
    assert not log.path.exists()


def test_a_log_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Exception, match="name another folder"):
        RunLog(tmp_path / "file")
    with pytest.raises(CheckpointError, match="line 2"):
        (tmp_path / FILE).write_text('{"kind": "run", "settings": {}}\nnonsense\n')
        RunLog(tmp_path)


def test_no_tested_run_has_a_seed_of_trials():
    assert not set(TUNING_SEEDS) & set(range(100))

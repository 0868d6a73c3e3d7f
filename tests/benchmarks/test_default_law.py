import re

import pytest

from bayes_htr.experiments import build_network
from bayes_htr.experiments.named_priors import PRIORS
from bayes_htr.inference.defaults import default_method
from benchmarks import default_law
from benchmarks.study.log import Log
from benchmarks.study.method import Setting


@pytest.fixture
def perform_nothing(monkeypatch):
    """Runs that are scored by their strength and seed; the last law diverges."""
    asked = []

    def run_all(label, runs, work, done, **rest):
        for run in runs:
            asked.append(run)
            brier = run.numbers["strength"] / 10 + run.seed / 1e6
            scores = {"brier": brier, "nll": 2 * brier, "accuracy": 1 - brier}
            lost = run.method == "Exponential(1), 3"
            done(run, {"diverged": "loss is nan"} if lost else {"validation": scores})

    monkeypatch.setattr(default_law, "run_all", run_all)
    return asked


def printed(capsys, *arguments):
    default_law.main([*arguments])
    return capsys.readouterr().out


def test_scores_differences_and_what_is_there_already(tmp_path, capsys, perform_nothing):
    arguments = ("--cells", "mlp-digits", "--out", str(tmp_path))
    text = printed(capsys, *arguments)
    assert len(perform_nothing) == 2 * len(default_law.METHODS)
    assert {run.tested for run in perform_nothing} == {False}
    assert {run.base.epochs for run in perform_nothing} == {40}
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    brier = {row[0]: row[1:] for row in reversed(rows) if len(row) == 3}
    assert brier["Lomax(2.5, 0.05), 1"] == ["0.1010", "-"]
    assert brier["Lomax(2, 1), 3"] == ["0.3010", "+0.2000 (+0.2000 to +0.2000)"]
    assert brier["Exponential(1), 3"][0] == "0.9000"  # a guess among ten classes
    assert printed(capsys, *arguments) == text
    assert len(perform_nothing) == 2 * len(default_law.METHODS)  # no run is made again


def test_cells_with_few_images_train_as_the_whole_data_do(tmp_path, perform_nothing, monkeypatch):
    monkeypatch.setattr(default_law, "check_data", lambda cells, data_dir: None)
    assert set(default_law.FEW) > {"mlp-kmnist-500", "lenet5-cifar10-2000"}
    cells = ["mlp-kmnist-500", "mlp-kmnist"]
    runs = default_law.score(cells, None, Log(tmp_path, "laws"), 1)
    few, whole = ([run for run in runs if run.cell == cell] for cell in cells)
    assert {repr(run.base) for run in few} == {repr(run.base) for run in whole}
    assert len(few) == 2 * len(default_law.METHODS)


def test_the_default_is_the_default_of_the_library(tmp_path, perform_nothing):
    runs = default_law.score(["mlp-digits"], None, Log(tmp_path, "laws"), 1)
    default = next(run for run in runs if run.method == default_law.DEFAULT)
    method = default_law.METHODS[default.method]
    net = build_network("mlp", (1, 8, 8), 10)
    setting = Setting(net, 1137, default.base, {})
    assert method.inference(default.numbers, setting) == default_method(net)
    named = PRIORS["lomax"]
    found = {p.name: p.prior for p in method.priors(default.numbers, setting).resolve(net)}
    assert found["fc1.weight"] == found["fc3.weight"] == named.of_posterior
    assert default.numbers["strength"] == named.strength

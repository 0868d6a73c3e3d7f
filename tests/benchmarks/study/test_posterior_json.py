"""Results from before the study of posteriors kept a log."""

from __future__ import annotations

import json

import pytest

from bayes_htr.errors import CheckpointError
from benchmarks.__main__ import main
from benchmarks.study.log import Log
from benchmarks.study.outcomes import Outcomes
from benchmarks.study.studies import STUDIES

FACTS = dict.fromkeys(("cpu", "gpu", "cores", "threads", "torch", "python", "bayes_htr"), "1")
MACHINES = [{**FACTS, "command": "posterior", "date": date} for date in ("1", "1", "2")]


def part(result, numbers, seed=0, start=None, run=0, **sizes):
    settings = {"numbers": numbers, "start": start, "priors": {}, "method": {}, "seed": seed}
    settings |= {"batch_size": 128, "num_data": 7000, "samples": 32} | sizes
    return {"run": run, "settings": settings, "result": result}


def cells(**sizes):
    """Two methods; one seed of the first is of a trial that is not the best."""
    found = {}
    for method, nlls, start in (
        ("map_frechet", (0.4, 0.3), None),
        ("meanfield_map", (0.5, 0.35), {"epochs": 20, "strength": 80.0}),
    ):
        trials = STUDIES["posterior"].methods[method].trials
        own = {f"trial/{i}": part({"nll": nlls[i]}, trials[i], 0, start, **sizes) for i in (0, 1)}
        for seed in range(3):
            trial = 0 if (method, seed) == ("map_frechet", 2) else 1
            scores = {"accuracy": 0.9, "nll": nlls[1], "ece": 0.1, "brier": 0.2}
            scores["ood_auroc_entropy"] = 0.8
            result = {"validation": scores, "plain": scores, "scaled": scores}
            result |= {"temperature": 1.1, "seconds": 2.0}
            own[f"seed/{seed}"] = part(result, trials[trial], seed, start, run=2, **sizes)
        found[f"kmnist/{method}"] = own
    return found


@pytest.fixture
def write(tmp_path):
    def write(found, **other):
        data = {"format": 1, "benchmark": "posterior", "runs": MACHINES, "cells": found, **other}
        (tmp_path / "posterior.json").write_text(json.dumps(data))
        return tmp_path

    return write


def test_tuned_results(write):
    log = Log(write(cells()), "posterior")
    again = Log(log.path.parent, "posterior")
    assert again.lines == log.lines
    outcomes = Outcomes(log, STUDIES["posterior"])
    trials = STUDIES["posterior"].methods["map_frechet"].trials
    assert outcomes.chosen("kmnist", "map_frechet") == trials[1]
    assert log.find("numbers", cell="kmnist", method="meanfield") is None
    assert list(outcomes.tested("kmnist", "map_frechet")) == [0, 1]
    assert list(outcomes.tested("kmnist", "meanfield_map")) == [0, 1, 2]
    assert [line["settings"]["date"] for line in log.of("machine")] == ["1", "2"]
    assert {line["machine"] for line in log.of("run")} == {0, 1}
    order = [line["kind"] == "run" and line["settings"]["tested"] for line in log.lines]
    assert order == sorted(order)


def test_such_a_folder_is_reported_and_resumed(write, data_dir, monkeypatch, capsys):
    """All trials and seeds that are there are found with the settings of today."""
    from benchmarks.study import command

    wanted = []
    monkeypatch.setattr(command, "run_all", lambda label, runs, *more, **other: wanted.append(runs))
    monkeypatch.setattr(command, "check_data", lambda cells, data_dir: None)
    found = cells()
    for name, parts in found.items():
        trials = STUDIES["posterior"].methods[name.partition("/")[2]].trials
        start = parts["trial/0"]["settings"]["start"]
        for i in (2, 3):
            parts[f"trial/{i}"] = part({"nll": 1.0}, trials[i], 0, start)
    folder = write(found)
    words = ["--methods", "map_frechet", "meanfield_map", "--cells", "kmnist", "--seeds", "3"]
    assert main(["study", "posterior", "--out", str(folder), *words]) == 0
    assert [[(run.method, run.seed) for run in runs] for runs in wanted] == [
        [],
        [],
        [("map_frechet", 2)],
    ]
    assert "differences to MAP, Fréchet prior" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ({}, {}),
        ({"batch_size": 64}, {"batch_size": 64}),
        ({"samples": 8, "num_data": 500}, {"samples": 8, "num_data": 500}),
    ],
)
def test_options_that_differed(write, sizes, options):
    log = Log(write(cells(**sizes)), "posterior")
    usual = {"tuning": 1, "trials": None, "shrink": 1, "epochs": None}
    assert [line["settings"] for line in log.of("study")] == [usual | options]


def test_epochs_of_all_fits(write):
    found = cells()
    for parts in found.values():
        for own in parts.values():
            own["settings"]["numbers"] = {**own["settings"]["numbers"], "epochs": 2}
    log = Log(write(found), "posterior")
    assert log.of("study")[0]["settings"]["epochs"] == 2
    assert {line["settings"]["base"]["epochs"] for line in log.of("run")} == {2}


def test_foreign_files(write, tmp_path):
    for other in ({"benchmark": "growth"}, {"format": 2}, {"runs": None}):
        write(cells(), **other)
        with pytest.raises(CheckpointError, match=r"posterior\.json"):
            Log(tmp_path, "posterior")
    assert not (tmp_path / "posterior.jsonl").exists()

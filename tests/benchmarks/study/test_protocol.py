"""What is chosen from what, and in which order."""

from __future__ import annotations

import pytest

from benchmarks.study.cells import Base
from benchmarks.study.log import Log
from benchmarks.study.protocol import Protocol
from benchmarks.study.runs import Run
from benchmarks.study.studies import STUDIES

FEW = ("none", "weight_decay", "spectral_norm", "frechet", "stable_rank", "stable_rank_above")
CELL = "mlp-digits"
STUDY = STUDIES["generalisation"]
SHORT = STUDY.adapted({"epochs": 1, "tuning": 1})


def test_entrants_are_not_named_after_test_images_were_seen(tmp_path):
    log = Log(tmp_path, "generalisation")
    run = Run(CELL, "none", {}, Base(1, 0.05, "cosine"), 0, {}, tested=True)
    log.append("run", run.settings(), result={"test": {}})
    for method in FEW:
        log.append("numbers", {"cell": CELL, "method": method}, score=0.5, numbers={})
    protocol = Protocol(STUDY, log, [CELL, "mlp-kmnist"], FEW, 10)
    protocol._choose_entrants(CELL)
    assert log.of("entrants") == []
    for method in FEW:
        log.append("numbers", {"cell": "mlp-kmnist", "method": method}, score=0.5, numbers={})
    protocol._choose_entrants("mlp-kmnist")
    assert [line["settings"] for line in log.of("entrants")] == [{"cell": "mlp-kmnist"}]


def test_a_run_that_diverges_is_never_chosen(tmp_path):
    log = Log(tmp_path, "generalisation")
    stages = Protocol(SHORT, log, [CELL], ["none", "weight_decay"], 10).stages()
    scores = {0.0005: None, 0.001: 0.5, 0.002: 0.4}
    for _ in range(2):
        for run in next(stages)[1]:
            brier = scores.get(run.numbers.get("mu"), 0.9)
            result = {"validation": {"brier": brier}, "ends": {"stable_rank": 1.0}}
            log.append(
                "run", run.settings(), result={"diverged": "NaN"} if brier is None else result
            )
    next(stages)
    chosen = log.find("numbers", cell=CELL, method="weight_decay")
    assert (chosen["numbers"], chosen["score"]) == ({"mu": 0.002}, 0.4)


def test_a_chosen_method_has_no_more_trials(tmp_path):
    """Other ranges are for cells to come: a choice that was made stays, at no cost."""
    log = Log(tmp_path, "generalisation")
    base = {"epochs": 1, "lr": 0.05, "schedule": "cosine"}
    log.append("base", {"cell": CELL}, score=0.5, base=base, ends={})
    log.append("numbers", {"cell": CELL, "method": "weight_decay"}, score=0.4, numbers={"mu": 7.0})
    protocol = Protocol(SHORT, log, [CELL], ["none", "weight_decay", "dropout"], 10)
    stages = protocol.stages()
    next(stages)
    assert {run.method for run in next(stages)[1]} == {"dropout"}
    chosen = log.find("numbers", cell=CELL, method="weight_decay")
    assert chosen["numbers"] == {"mu": 7.0}


def test_no_tested_run_has_a_seed_of_trials(tmp_path):
    log = Log(tmp_path, "generalisation")
    assert min(STUDY.tuning_seeds) == 1000
    assert Protocol(STUDY, log, [CELL], FEW, 1000).seeds == 1000
    with pytest.raises(ValueError, match="at most 1000"):
        Protocol(STUDY, log, [CELL], FEW, 1001)


def test_methods_that_start_from_a_tuned_fit_follow_it(tmp_path):
    log = Log(tmp_path, "posterior")
    study = STUDIES["posterior"].adapted({"trials": 2})
    stages = Protocol(study, log, ["kmnist"], ["spectral_lomax_map"], 1).stages()
    label, runs = next(stages)
    assert (label, {run.method for run in runs}) == ("kmnist: trials", {"map_frechet"})
    for run in runs:
        nll = 1 / run.numbers["strength"]
        log.append("run", run.settings(), result={"validation": {"nll": nll}})
    label, runs = next(stages)
    assert label == "kmnist: trials from tuned fits"
    best = {"epochs": 20, "strength": 320.0}
    assert [(run.method, run.start) for run in runs] == [("spectral_lomax_map", best)] * 2
    for run in runs:
        log.append("run", run.settings(), result={"validation": {"nll": 0.5}})
    _, runs = next(stages)
    assert [(run.method, run.start, run.tested) for run in runs] == [
        ("spectral_lomax_map", best, True)
    ]
    assert log.of("entrants") == []

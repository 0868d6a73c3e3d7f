"""Single runs of the studies, and temperature scaling."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import bayes_htr as htr
from bayes_htr.posterior.prediction import Prediction
from bayes_htr.posterior.scores import scores
from benchmarks.study import cells, runs
from benchmarks.study.cells import Base, split
from benchmarks.study.method import Method
from benchmarks.study.runs import (
    Run,
    fitted_temperature,
    packed,
    perform,
    scores_of_test,
    tempered,
    unpacked,
)
from benchmarks.study.studies import STUDIES

CELL = "mlp-digits"
STUDY = STUDIES["generalisation"]


def test_packing():
    right = torch.rand(21) < 0.5
    assert (unpacked(packed(right), 21) == right.numpy()).all()


def test_what_a_method_is_shrunk_to():
    run = Run(CELL, "none", {}, Base(1, 0.05, "cosine"), 0, {}, tested=True, shrink=4)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        fit = htr.fit
        patch.setattr(
            htr, "fit", lambda m, data, **k: seen.append(len(data[0])) or fit(m, data, **k)
        )
        result = perform(STUDY, run, None, "cpu")
    whole = len(split(STUDY.cells[CELL], None, 0, "cpu").train[0])
    assert seen == [-(-whole // 4)]
    assert result["images"] == len(cells.test_images(STUDY.cells[CELL], None)[1])
    assert len(result["curve"]) == 1


def test_an_ensemble_has_members_of_its_own(monkeypatch):
    build, seeds = runs.build_network, []
    monkeypatch.setattr(
        runs, "build_network", lambda *args, **k: seeds.append(k["seed"]) or build(*args, **k)
    )
    run = Run(CELL, "ensemble", {}, Base(1, 0.05, "cosine"), 0, {}, tested=True)
    one, two = perform(STUDY, run, None, "cpu"), perform(STUDY, replace(run, seed=1), None, "cpu")
    assert len(set(seeds)) == 10
    assert one["right"] != two["right"]
    single = perform(STUDY, replace(run, method="none"), None, "cpu")
    assert one["test"]["nll"] < single["test"]["nll"]


def test_a_fit_in_another_way(monkeypatch):
    """It is given what the cell and the trial say, and has no parameters to look at."""
    tasks = []

    class Guess:
        def predict(self, x, samples):
            return Prediction(torch.full((len(x), 10), 0.1).log(), torch.zeros(len(x)))

    method = Method("guess", "peer", ({"a": 2.0},), fit=lambda task: tasks.append(task) or Guess())
    study = replace(STUDY, methods={"guess": method})
    base = Base(3, 0.05, "constant")
    run = Run(CELL, "guess", {"a": 2.0}, base, 0, {}, tested=True, shrink=4)
    result = perform(study, run, None, "cpu")
    assert result["test"]["nll"] == pytest.approx(2.302585)
    assert not {"matrices", "curve", "mixtures", "conditions"} & set(result)
    (task,) = tasks
    assert (task.base, task.numbers, task.seed, task.batch_size) == (base, {"a": 2.0}, 0, 128)
    assert len(task.data[0]) == result["num_data"]
    assert "test" not in perform(study, replace(run, tested=False), None, "cpu")


def test_mixtures_of_the_first_members(monkeypatch):
    """Each adds a member; a trial is a single fit, and validation is no part of the seconds."""
    study = STUDIES["mixtures"]
    fit, validated = htr.fit, []
    monkeypatch.setattr(
        htr, "fit", lambda *args, **k: validated.append(k["validation"]) or fit(*args, **k)
    )
    run = Run(CELL, "none", {}, Base(1, 0.05, "cosine"), 0, {}, tested=True)
    result = perform(study, run, None, "cpu")
    assert validated == [None] * 5
    seconds = [row["seconds"] for row in result["mixtures"]]
    assert seconds == sorted(seconds)
    assert len(set(seconds)) == 5
    assert result["mixtures"][-1]["test"] == result["test"]
    assert result["mixtures"][-1]["right"] == result["right"]
    single = replace(study, methods={"none": replace(study.methods["none"], members=1)})
    first = perform(single, replace(run, seed=1000), None, "cpu")
    assert "mixtures" not in first
    split_of_first = replace(study.cells[CELL], split_seed=0)  # that of the run with five members
    same = replace(single, cells={CELL: split_of_first})
    assert perform(same, replace(run, seed=1000), None, "cpu")["test"] == pytest.approx(
        result["mixtures"][0]["test"]
    )
    del validated[:]
    assert "mixtures" not in perform(study, replace(run, tested=False), None, "cpu")
    assert len(validated) == 1


def test_scores_that_are_not_finite(monkeypatch):
    """They count as diverging: the log takes no such number, and a study would end."""
    run = Run(CELL, "none", {}, Base(1, 0.05, "cosine"), 0, {}, tested=True)
    finite, not_finite = {"nll": 1.0}, {"nll": float("inf")}
    for found, images in (([not_finite], "validation"), ([finite, not_finite], "test")):
        scored = iter(found)
        monkeypatch.setattr(runs, "scores", lambda predicted, y, own=scored: next(own))
        result = perform(STUDY, run, None, "cpu")
        assert result == {"diverged": f"scores of {images} images are not finite: nll"}


def prediction(seed, sharpness, n=4000):
    """Labels drawn from known probabilities, and the prediction `p^sharpness`, normalised."""
    generator = torch.Generator().manual_seed(seed)
    log_probs = torch.randn(n, 4, generator=generator).mul(2).log_softmax(1)
    y = torch.multinomial(log_probs.exp(), 1, generator=generator).squeeze(1)
    return Prediction((log_probs * sharpness).log_softmax(1), torch.zeros(n)), y


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_was_done(sharpness):
    found, y = prediction(0, sharpness)
    temperature = fitted_temperature(found, y)
    assert temperature == pytest.approx(sharpness, rel=0.08)
    undone, exact = tempered(found, temperature), prediction(0, 1.0)[0]
    assert scores(undone, y)["nll"] <= scores(exact, y)["nll"] + 1e-6
    assert torch.equal(undone.labels, found.labels)


def test_the_temperature_comes_from_validation_data():
    (validation, y_validation), (test, y_test) = prediction(0, 3.0), prediction(1, 0.5)
    found = scores_of_test(validation, y_validation, test, y_test, ood=test)
    assert found["temperature"] == fitted_temperature(validation, y_validation)
    assert found["scaled"]["nll"] > found["test"]["nll"]
    assert found["test"]["ood_auroc_entropy"] == 0.5


def test_a_fit_that_starts_from_another(data_dir, monkeypatch):
    """The start has the numbers that were chosen, and is fitted once for each seed."""
    fits, fit = [], htr.fit

    def noted(model, data, **settings):
        fits.append((model.priors.strength, settings["seed"], settings["init"] is not None))
        return fit(model, data, **settings)

    monkeypatch.setattr(htr, "fit", noted)
    monkeypatch.setattr(runs, "_started", {})
    options = {"validation": 6, "batch_size": 8, "samples": 2, "ood_images": 4, "epochs": 1}
    study = STUDIES["posterior"].adapted(options)
    numbers = study.methods["spectral_lomax_map"].trials[1]
    start = study.methods["map_frechet"].trials[2]
    base = study.cells["kmnist"].bases()[0]
    run = Run("kmnist", "spectral_lomax_map", numbers, base, 3, {}, True, start=start)
    result = perform(study, run, data_dir, "cpu")
    perform(study, replace(run, tested=False), data_dir, "cpu")
    assert fits == [(160.0, 3, False), (3.0, 3, True), (3.0, 3, True)]
    assert set(result) == {
        *("seconds", "num_data", "validation", "test", "scaled", "temperature"),
        *("images", "right", "matrices", "curve"),
    }
    assert result["num_data"] == 18
    assert set(result["test"]) == {
        *("accuracy", "nll", "ece", "brier", "ood_auroc_entropy"),
        *("ood_auroc_mutual_information", "ood_auroc_confidence"),
    }

"""Methods, splits and single runs of the study of generalisation."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bayes_htr.engine import bind
from bayes_htr.errors import DataError
from bayes_htr.experiments import build_network
from benchmarks.study.generalisation import cells, fits, methods
from benchmarks.study.generalisation.cells import CELLS, Base, split
from benchmarks.study.generalisation.fits import Run, packed, perform, unpacked
from benchmarks.study.generalisation.methods import METHODS, TUNED, Setting

CELL = "mlp-digits"


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


def test_an_ensemble_has_members_of_its_own(monkeypatch):
    build, seeds = fits.build_network, []
    monkeypatch.setattr(
        fits, "build_network", lambda *args, **k: seeds.append(k["seed"]) or build(*args, **k)
    )
    run = Run(CELL, "ensemble", {}, Base(1, 0.05, "cosine"), 0, {}, tested=True)
    one, two = perform(run, None, "cpu"), perform(replace(run, seed=1), None, "cpu")
    assert len(set(seeds)) == 10
    assert one["right"] != two["right"]
    single = perform(replace(run, method="none"), None, "cpu")
    assert one["test"]["nll"] < single["test"]["nll"]


def test_decay_is_in_five_steps():
    net = build_network("mlp", (1, 8, 8), 10, seed=0)
    setting = Setting(net, 100, Base(20, 0.05, "cosine"), {})
    for kind, last in (("power", 1 / 4), ("exp", np.exp(-4))):
        priors = METHODS[f"stable_rank_{kind}"].priors({"mu": 0.1}, setting)
        energy = bind(priors, net)
        values = [energy(epoch=epoch).item() for epoch in range(20)]
        steps = [values[i] for i in range(0, 20, 4)]
        assert values == [step for step in steps for _ in range(4)]
        assert steps[-1] == pytest.approx(last * steps[0], rel=1e-4)


def test_scores_that_are_not_finite(monkeypatch):
    """They count as diverging: the log takes no such number, and a study would end."""
    run = Run(CELL, "none", {}, Base(1, 0.05, "cosine"), 0, {}, tested=True)
    finite, not_finite = {"nll": 1.0}, {"nll": float("inf")}
    for found, images in (([not_finite], "validation"), ([finite, not_finite], "test")):
        scored = iter(found)
        monkeypatch.setattr(fits, "scores", lambda predicted, y, own=scored: next(own))
        result = perform(run, None, "cpu")
        assert result == {"diverged": f"scores of {images} images are not finite: nll"}

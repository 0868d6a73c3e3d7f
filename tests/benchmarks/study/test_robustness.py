"""The study of robustness: its cells, its tables and its pictures."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import pytest
import torch

import bayes_htr as htr
from bayes_htr._plotting import pyplot
from bayes_htr.experiments import build_network
from benchmarks.study import robustness
from benchmarks.study.cells import ROBUSTNESS, Base, split
from benchmarks.study.conditions import KEPT, SHIFTS
from benchmarks.study.log import Log
from benchmarks.study.method import Setting
from benchmarks.study.outcomes import Outcomes
from benchmarks.study.robustness import draw_robustness, questions, robustness_tables
from benchmarks.study.runs import Run, perform
from benchmarks.study.studies import STUDIES

STUDY = STUDIES["robustness"]
BASE = Base(1, 0.05, "cosine")
CELL = "mlp-kmnist"


def test_cells_differ_from_the_first_by_one_change():
    beside = {"name", "ood", "conditions"}
    changed = {}
    for name, cell in ROBUSTNESS.items():
        first = asdict(ROBUSTNESS[cell.like])
        assert first["name"] == cell.like
        assert cell.conditions == (name == cell.like)
        changed[name] = {n: v for n, v in asdict(cell).items() if v != first[n] and n not in beside}
        few = name.endswith(("-500", "-2000"))
        assert cell.same_updates == few
        assert len(changed[name]) == (name != cell.like) + few
    assert changed[f"{CELL}-noise40"] == {"label_noise": 0.4}
    few = {"train": 500 + ROBUSTNESS[CELL].validation, "same_updates": True}
    assert changed[f"{CELL}-500"] == few
    assert changed[f"{CELL}-width0.25"] == {"width": 0.25}


def test_a_run_at_another_width(data_dir):
    study = STUDY.adapted({"train": 20, "validation": 5, "samples": 2})
    run = Run(f"{CELL}-width0.125", "none", {}, BASE, 0, {}, tested=True)
    found = perform(study, run, data_dir, "cpu")["matrices"]
    # The stable rank of a matrix is at most its smaller side: 32 units of the second layer.
    assert found["fc2.weight"]["stable_rank"] <= 32
    wide = perform(study, Run(CELL, "none", {}, BASE, 0, {}, tested=True), data_dir, "cpu")
    assert wide["matrices"]["fc2.weight"]["stable_rank"] > 32


def test_few_images_have_as_many_updates_in_more_epochs(data_dir, monkeypatch):
    epochs = []
    fit = htr.fit

    def noted(*args, **kwargs):
        epochs.append(kwargs["epochs"])
        return fit(*args, **kwargs)

    monkeypatch.setattr(htr, "fit", noted)
    sizes = {CELL: 25, f"{CELL}-2000": 15, f"{CELL}-500": 9}  # of 24 images: 19, 10 and 4 to fit
    cells = {name: replace(ROBUSTNESS[name], train=n, validation=5) for name, n in sizes.items()}
    for name in cells:
        run = Run(name, "none", {}, Base(2, 0.05, "cosine"), 0, {}, tested=True)
        perform(replace(STUDY, cells=cells), run, data_dir, "cpu")
    assert epochs == [2, 4, 10]


@pytest.mark.parametrize(
    ("place", "heavy"),
    [
        ("none", []),
        ("first", ["conv1.weight"]),
        ("middle", ["conv2.weight", "fc1.weight", "fc2.weight"]),
        ("last", ["fc3.weight"]),
        ("all", ["conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight", "fc3.weight"]),
    ],
)
def test_layers_with_a_heavy_tail(place, heavy):
    net = build_network("lenet5", (1, 28, 28), 10)
    method = STUDY.methods[f"heavy_{place}"]
    priors = method.priors(method.trials[0], Setting(net, 100, BASE, {}))
    spectral = {p.name: p.prior for p in priors.resolve(net) if isinstance(p.prior, htr.ESD)}
    assert set(spectral) == set(htr.matrices_of(net))
    assert [name for name, p in spectral.items() if isinstance(p.law, htr.Lomax)] == heavy
    assert not method.tuned


def test_noise_is_in_training_labels_alone(data_dir):
    sizes = {"train": 20, "validation": 5}
    study = STUDY.adapted(sizes)
    clean, changed = (
        split(study.cells[name], data_dir, 3, "cpu") for name in (CELL, f"{CELL}-noise40")
    )
    assert torch.equal(clean.train[0], changed.train[0])
    assert int((clean.train[1] != changed.train[1]).sum()) == 6  # 0.4 of 15
    assert torch.equal(clean.validation[1], changed.validation[1])


def test_a_run_with_conditions(data_dir):
    study = STUDY.adapted({"train": 20, "validation": 5, "samples": 2, "ood_images": 4})
    run = Run(CELL, "none", {}, BASE, 0, {}, tested=True)
    result = perform(study, run, data_dir, "cpu")
    found = result["conditions"]
    assert set(found) == {*SHIFTS, "kept"}
    assert list(found["kept"]) == [f"{share:g}" for share in KEPT]
    # All singular values kept: the network itself, which is what plain training predicts by.
    assert found["kept"]["1"]["nll"] == pytest.approx(result["test"]["nll"], rel=1e-4)
    assert found["rotation, degrees"]["60"]["nll"] != result["test"]["nll"]
    assert "ood_auroc_entropy" in result["test"]
    few = perform(study, Run(f"{CELL}-500", "none", {}, BASE, 0, {}, tested=True), data_dir, "cpu")
    assert "conditions" not in few


@pytest.fixture
def outcomes(tmp_path):
    """Accuracy 0.9 at best, minus 0.1 for each step; the Lomax posterior is better by 0.05."""
    log = Log(tmp_path, "robustness")

    def scored(gain, steps, seed):
        accuracy = 0.9 + gain - 0.1 * steps + 0.001 * seed
        return {"accuracy": accuracy, "nll": 1 - accuracy, "ood_auroc_entropy": 0.8}

    for method, gain in (("none", 0.0), ("weight_decay", 0.01), ("svi_lomax", 0.05)):
        for seed in range(3):
            for steps, name in enumerate((CELL, f"{CELL}-noise20", f"{CELL}-noise40")):
                result = {"test": scored(gain, steps, seed), "num_data": 7000, "images": 10}
                if name == CELL:
                    kinds = {kind: list(found) for kind, found in SHIFTS.items()} | {"kept": KEPT}
                    result["conditions"] = {
                        kind: {
                            f"{s:g}": scored(gain, place + (kind != "kept"), seed)
                            for place, s in enumerate(severities)
                        }
                        for kind, severities in kinds.items()
                    }
                if (method, seed, name) == ("none", 2, CELL):
                    result = {"diverged": "NaN"}
                run = Run(name, method, {}, BASE, seed, {}, tested=True)
                log.append("run", run.settings(), result=result)
    for method, gain in (("heavy_none", 0.0), ("heavy_first", 0.02)):
        for seed in range(3):
            result = {"test": scored(gain, 0, seed), "num_data": 7000, "images": 10}
            run = Run(CELL, method, {}, BASE, seed, {}, tested=True)
            log.append("run", run.settings(), result=result)
    run = Run(f"{CELL}-width0.25", "none", {}, BASE, 0, {}, tested=True)
    log.append("run", run.settings(), result={"test": scored(0.0, 2, 0), "num_data": 7000})
    return Outcomes(log, STUDY)


def test_conditions_of_each_question(outcomes):
    asked = dict(questions(outcomes, CELL))
    assert [c.label for c in asked["label noise, share"]] == ["0", "0.2", "0.4"]
    assert [c.label for c in asked["training images"]] == ["7,000", "2,000", "500"]
    assert [c.label for c in asked["rotation, degrees"]] == ["0", "15", "30", "45", "60"]
    widths = asked["width of the network"]
    assert [c.label for c in widths] == ["0.125", "0.25", "0.5", "1", "2"]
    assert widths[1].scores("none", "accuracy") == {0: pytest.approx(0.7)}
    turned = asked["rotation, degrees"]
    for place, condition in enumerate(turned):
        by_seed = condition.scores("svi_lomax", "accuracy")
        assert by_seed[1] == pytest.approx(0.951 - 0.1 * place)
    assert turned[1].scores("none", "nll")[2] == math.log(10)  # diverged: a guess
    assert asked["training images"][1].scores("none", "nll") == {}  # not run yet


def test_tables(outcomes):
    tables = {table.title: table for table in robustness_tables(outcomes)}
    noise = tables[f"{CELL}: accuracy by label noise, share"]
    rows = {row[0]: row for row in noise.rows}
    assert rows["Lomax prior, SVI"][1:] == [
        *("3", "0.9510 (0.0010)", "0.8510 (0.0010)", "0.7510 (0.0010)")
    ]
    few = tables[f"{CELL}: NLL by training images"]
    assert few.rows[0][-1] == "-"
    compared = tables[f"{CELL}: Lomax prior, SVI minus weight decay"]
    assert all(
        row[2].startswith("+0.0400") and row[3].startswith("-0.0400") for row in compared.rows
    )
    # Three shares of label noise, and one number of images and one width with both methods.
    assert len(compared.rows) == 3 + 1 + 1 + sum(1 + len(s) for s in SHIFTS.values()) + len(KEPT)
    assert not any("exponential" in title for title in tables)
    none, first = tables[f"{CELL}: layers with a heavy tail"].rows
    assert none[:4] == ["posterior, Lomax law in no layer", "3", "0.9010 (0.0010)", "-"]
    assert first[2:4] == ["0.9210 (0.0010)", "+0.0200 [+0.0200, +0.0200]"]
    assert first[5] == "-0.0200 [-0.0200, -0.0200]"
    told_apart = tables["Images of another data set told apart by entropy"]
    assert [row[3] for row in told_apart.rows][1:] == ["0.8000 (0.0000)"] * 2
    assert [row[4] for row in told_apart.rows][1:] == ["+0.0000 [+0.0000, +0.0000]", "-"]


def test_a_picture_for_each_question(outcomes, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        robustness, "save", lambda figure, path: drawn.setdefault(path.name, figure) and path
    )
    paths = draw_robustness(outcomes, tmp_path)
    assert [path.name for path in paths] == [
        *("label-noise.png", "training-images.png", "width-of-the-network.png"),
        *("singular-values-kept.png", "shifted-images.png", "heavy-layers.png", "other-data.png"),
    ]
    rotation, *others = drawn["shifted-images.png"].axes
    assert [len(line.get_xdata()) for line in rotation.get_lines()] == [5, 5, 5]
    assert (rotation.get_title(), rotation.get_ylabel()) == (CELL, "accuracy")
    assert [ax.get_xlabel() for ax in (rotation, *others)] == list(SHIFTS)
    kept, _ = drawn["singular-values-kept.png"].axes
    assert [tick.get_text() for tick in kept.get_xticklabels()][:3] == ["1", "1/2", "1/4"]
    few = drawn["training-images.png"].axes[0]
    assert [len(line.get_xdata()) for line in few.get_lines()] == [1, 1, 1]
    layers = drawn["heavy-layers.png"].axes[0]
    assert [label.get_text() for label in layers.get_yticklabels()] == ["the first layer"]
    apart = drawn["other-data.png"].axes[0]
    assert [len(line.get_xdata()) for line in apart.get_lines()] == [3, 1] * 3
    for figure in drawn.values():
        pyplot().close(figure)

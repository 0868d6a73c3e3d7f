"""The file of an estimator: it comes back as it was, and a damaged or foreign file is refused."""

import json
import pickle
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.datasets import load_iris
from torch import nn

import bayes_htr as htr
from bayes_htr.estimator.archive import (
    labels_of_plain,
    parameters_of_plain,
    plain_labels,
    plain_parameters,
)

X, CODES = load_iris(return_X_y=True, as_frame=True)
Y = np.array(["setosa", "versicolor", "virginica"])[CODES]
SMALL = {"hidden": (8,), "epochs": 3, "lr": 0.03, "random_state": 0}


@pytest.fixture(scope="module")
def fitted():
    return htr.HTRClassifier(**SMALL).fit(X, Y)


@pytest.fixture
def file(fitted, tmp_path):
    fitted.save(tmp_path / "iris.htr")
    return tmp_path / "iris.htr"


def rewritten(file, change):
    """The file with its members changed: `change` takes a dict of bytes by name."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def described(file, change):
    """The file with its description changed."""

    def of(members):
        data = json.loads(members["estimator.json"])
        change(data)
        members["estimator.json"] = json.dumps(data)

    rewritten(file, of)


def test_it_comes_back_as_it_was(fitted, file):
    again = htr.HTRClassifier.load(file)
    assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
    assert_array_equal(again.predict(X), fitted.predict(X))
    assert again.get_params() == fitted.get_params()
    assert again.feature_names_in_.tolist() == list(X.columns)
    assert (again.n_iter_, again.seed_, again.n_features_in_) == (3, 0, 4)
    assert again.spectra_["fc1.weight"].equal(fitted.spectra_["fc1.weight"])
    assert again.posterior_.history == fitted.posterior_.history
    assert_array_equal(again.fit(X, Y).predict_proba(X), fitted.predict_proba(X))


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "map"},
        {"prior": htr.ESD(htr.Exponential(1.0)), "strength": np.float32(2.0)},
        {"prior": htr.Priors({"fc1.*": htr.Entries(htr.Normal(0.0, 1.0))})},
        {"method": htr.SVI(guide="meanfield", lr=0.01, patience=2), "lr": None},
        {"class_weight": {"setosa": 2.0}, "label_smoothing": 0.1, "hidden": [5, 4]},
        {"standardise": False},
        {"clip": 1.5},
    ],
    ids=lambda settings: " ".join(settings),
)
def test_every_kind_of_setting_comes_back(settings, tmp_path):
    clf = htr.HTRClassifier(**SMALL | settings).fit(X, Y)
    clf.save(tmp_path / "file")
    again = htr.HTRClassifier.load(tmp_path / "file")
    before = clf.get_params() | {"hidden": tuple(clf.hidden)}
    assert again.get_params() == before
    assert_array_equal(again.predict_proba(X), clf.predict_proba(X))


def test_a_file_of_a_version_that_did_not_clip_predicts_as_it_did(tmp_path):
    clf = htr.HTRClassifier(**SMALL, clip=None).fit(X, Y)
    clf.save(tmp_path / "file")

    def of_before(data):
        del data["clip"], data["parameters"]["clip"]

    described(tmp_path / "file", of_before)
    again = htr.HTRClassifier.load(tmp_path / "file")
    assert (again.clip, again.clip_) == (None, None)
    assert_array_equal(again.predict_proba(X), clf.predict_proba(X))


def test_a_pickle_of_a_version_that_did_not_clip_predicts_as_it_did():
    clf = htr.HTRClassifier(**SMALL, clip=None).fit(X, Y)
    before = clf.predict_proba(X)
    del clf.clip_
    assert_array_equal(pickle.loads(pickle.dumps(clf)).predict_proba(X), before)


def test_inputs_in_single_precision(tmp_path):
    x = X.to_numpy(np.float32)
    clf = htr.HTRClassifier(**SMALL).fit(x, Y)
    assert {p.dtype for p in clf.posterior_.network().parameters()} == {torch.float32}
    clf.save(tmp_path / "file")
    assert_array_equal(
        htr.HTRClassifier.load(tmp_path / "file").predict_proba(x), clf.predict_proba(x)
    )


@pytest.mark.parametrize(
    "labels",
    [
        np.array([1, 5]),
        np.array([0.5, 2.0]),
        np.array([False, True]),
        np.array(["a", "ü"]),
        np.array(["a", "ü"], dtype=object),
    ],
    ids=lambda labels: labels.dtype.str,
)
def test_labels_keep_their_kind(labels):
    again = labels_of_plain(json.loads(json.dumps(plain_labels(labels))))
    assert again.dtype == labels.dtype
    assert_array_equal(again, labels)


def test_labels_that_json_cannot_hold():
    with pytest.raises(htr.DataError, match="labels must be numbers, booleans or words"):
        plain_labels(np.array([np.datetime64("2020-01-01")]))
    with pytest.raises(ValueError, match="labels of the kind"):
        labels_of_plain({"dtype": "V8", "values": []})


def test_settings_that_no_file_can_hold_are_named():
    given = {
        "method": htr.MAP(optimizer=torch.optim.AdamW),
        "random_state": np.random.RandomState(0),
        "module": nn.Linear,
        "hidden": (3,),
    }
    plain, lost = plain_parameters(given)
    assert lost == ["method", "random_state", "module"]
    assert parameters_of_plain(plain) == {"hidden": (3,)}


def test_a_method_of_one_s_own_has_its_default_and_a_warning(tmp_path):
    method = htr.MAP(optimizer=torch.optim.AdamW, lr=0.01)
    clf = htr.HTRClassifier(hidden=(8,), epochs=1, method=method, random_state=0).fit(X, Y)
    clf.save(tmp_path / "file")
    with pytest.warns(UserWarning, match="does not hold method"):
        again = htr.HTRClassifier.load(tmp_path / "file")
    assert again.method == "svi"
    assert_array_equal(again.predict_proba(X), clf.predict_proba(X))


def test_a_module_is_given_again(tmp_path):
    clf = htr.HTRClassifier(module=nn.Linear, epochs=2, random_state=0).fit(X, Y)
    clf.save(tmp_path / "file")
    again = htr.HTRClassifier.load(tmp_path / "file", module=nn.Linear)
    assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    assert again.module is nn.Linear
    with pytest.raises(htr.CheckpointError, match="given by module=; give it to load"):
        htr.HTRClassifier.load(tmp_path / "file")
    with pytest.raises(htr.CheckpointError, match="does not fit the network"):
        htr.HTRClassifier.load(tmp_path / "file", module=nn.Linear(3, 3))


def test_a_file_is_replaced_on_request_only(fitted, file):
    before = file.read_bytes()
    with pytest.raises(htr.OutputError, match="take overwrite=True"):
        fitted.save(file)
    assert file.read_bytes() == before
    htr.HTRClassifier(**SMALL | {"hidden": (5,)}).fit(X, Y).save(file, overwrite=True)
    assert htr.HTRClassifier.load(file).hidden == (5,)
    with pytest.raises(htr.OutputError, match="is a folder"):
        fitted.save(file.parent, overwrite=True)
    with pytest.raises(htr.OutputError, match="missing"):
        fitted.save(file.parent / "nowhere" / "file")
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_files_that_are_none(file, tmp_path):
    with pytest.raises(htr.CheckpointError, match="does not exist"):
        htr.HTRClassifier.load(tmp_path / "nothing")
    pd.Series([1]).to_csv(tmp_path / "table")
    with pytest.raises(htr.CheckpointError, match="is not the file of an estimator"):
        htr.HTRClassifier.load(tmp_path / "table")
    (tmp_path / "half").write_bytes(file.read_bytes()[:2000])
    with pytest.raises(htr.CheckpointError, match="is not the file of an estimator"):
        htr.HTRClassifier.load(tmp_path / "half")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("classes"),
        lambda d: d.update(format=2),
        lambda d: d["parameters"].update(colour="red"),
        lambda d: d["parameters"].update(method={"method": "os.system", "settings": {}}),
        lambda d: d["parameters"].update(method={"method": "SVI", "settings": {"lr": -1}}),
        lambda d: d["parameters"].update(prior={"prior": {"type": "Path"}}),
        lambda d: d["parameters"].update(hidden=[9]),
        lambda d: d.update(features="many"),
        lambda d: d.update(mean="zero"),
        lambda d: d.update(mean=[[0.0, 0.0]]),
        lambda d: d.update(classes={"dtype": "<i8", "values": [[1]]}),
        lambda d: d.update(classes={"dtype": "<i8", "values": [1, 2]}),
    ],
)
def test_descriptions_that_are_damaged(file, change):
    described(file, change)
    with pytest.raises(htr.CheckpointError, match=r"iris\.htr"):
        htr.HTRClassifier.load(file)


def test_a_posterior_that_is_damaged(file):
    def change(members):
        weights = bytearray(members["posterior/weights.safetensors"])
        weights[-1] ^= 1
        members["posterior/weights.safetensors"] = bytes(weights)

    rewritten(file, change)
    with pytest.raises(htr.CheckpointError, match="damaged or changed"):
        htr.HTRClassifier.load(file)


def test_no_member_is_written_outside_and_none_unpacks_to_more(file):
    rewritten(file, lambda members: members.update({"posterior/../../evil": b"x"}))
    htr.HTRClassifier.load(file)
    rewritten(file, lambda members: members.pop("posterior/metrics.jsonl"))
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("posterior/metrics.jsonl", b"\n" * 10**6)
    with pytest.raises(htr.CheckpointError, match="is compressed"):
        htr.HTRClassifier.load(file)


def test_a_mixture_comes_back_with_all_members(tmp_path):
    one = htr.HTRClassifier(**SMALL).fit(X, Y)
    clf = htr.HTRClassifier(**SMALL, members=2).fit(X, Y)
    assert len(clf.posterior_.members) == 2
    first = clf.posterior_.members[0].network().state_dict()
    for name, value in one.posterior_.network().state_dict().items():
        assert torch.equal(first[name], value)
    assert not np.array_equal(clf.predict_proba(X), one.predict_proba(X))
    clf.save(tmp_path / "iris.htr")
    loaded = htr.HTRClassifier.load(tmp_path / "iris.htr")
    assert loaded.members == 2
    assert_array_equal(loaded.predict_proba(X), clf.predict_proba(X))
    again = clf.set_params(warm_start=True, epochs=1).fit(X, Y)
    assert len(again.posterior_.members) == 2

    def elsewhere(members):
        members["posterior/members/../../spy"] = b"word"

    rewritten(tmp_path / "iris.htr", elsewhere)
    htr.HTRClassifier.load(tmp_path / "iris.htr")
    assert not list(tmp_path.parent.rglob("spy"))

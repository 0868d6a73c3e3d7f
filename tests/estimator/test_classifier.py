"""`HTRClassifier`: scikit-learn's own checks, its tools, bad input, and what it adds to them."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_iris, make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

import bayes_htr as htr
from bayes_htr.estimator import classifier
from bayes_htr.estimator.settings import STEPS, TABLE_STEPS, chosen_epochs, held_out, table_lr
from bayes_htr.estimator.table_strength import FEWEST
from bayes_htr.inference.defaults import default_method

SMALL = {"strength": 1.0, "hidden": (8,), "epochs": 15, "lr": 0.03, "random_state": 0}


@parametrize_with_checks(
    [htr.HTRClassifier(**SMALL), htr.HTRClassifier(**SMALL | {"method": "map"})]
)
def test_scikit_learn_s_own_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True, as_frame=True)
    return X, y.map(dict(enumerate(["setosa", "versicolor", "virginica"])))


@pytest.fixture(scope="module")
def fitted(iris):
    return htr.HTRClassifier(**SMALL).fit(*iris)


# With scikit-learn's tools


def test_a_table_of_pandas_and_labels_that_are_words(fitted, iris):
    X, y = iris
    assert fitted.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    assert fitted.feature_names_in_.tolist() == list(X.columns)
    assert fitted.n_features_in_ == 4
    assert fitted.score(X, y) > 0.9
    assert set(fitted.predict(X)) == set(y)
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.predict(X.rename(columns=str.upper))


def test_in_a_pipeline_with_cross_validation(iris):
    clf = make_pipeline(MinMaxScaler(), htr.HTRClassifier(**SMALL))
    scores = cross_val_score(clf, *iris, cv=3, scoring="neg_log_loss")
    assert scores.min() > -0.5


@pytest.mark.long
def test_a_grid_over_priors_and_strengths_in_two_processes(iris):
    grid = {
        "prior": ["lomax", "frechet", htr.ESD(htr.Exponential(1.0))],
        "strength": [1.0, 300.0],
    }
    search = GridSearchCV(
        htr.HTRClassifier(**SMALL), grid, cv=2, scoring="neg_log_loss", n_jobs=2
    ).fit(*iris)
    scores = search.cv_results_["mean_test_score"].reshape(3, 2)
    assert np.isfinite(scores).all()
    assert (scores[:, 0] > scores[:, 1]).all()  # the stronger prior is much too strong
    assert search.best_params_["strength"] == 1.0


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_strength_is_chosen_by_itself(iris, early_stopping):
    settings = SMALL | {"strength": "auto", "epochs": 4, "early_stopping": early_stopping}
    clf = htr.HTRClassifier(**settings).fit(*iris)
    chosen = clf.posterior_.priors.strength
    by_hand = htr.HTRClassifier(**settings | {"strength": chosen}).fit(*iris)
    assert np.array_equal(clf.predict_proba(iris[0]), by_hand.predict_proba(iris[0]))
    assert clone(clf).strength == "auto"
    again = pickle.loads(pickle.dumps(clf))
    assert np.array_equal(again.predict_proba(iris[0]), clf.predict_proba(iris[0]))
    grid = {"strength": ["auto", 3.0]}
    assert GridSearchCV(htr.HTRClassifier(**settings), grid, cv=2).fit(*iris).best_score_ > 0.5


def test_clone_copies_settings_and_no_fit(fitted):
    again = clone(fitted)
    assert not hasattr(again, "posterior_")
    assert again.get_params() == fitted.get_params()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda clf: pickle.loads(pickle.dumps(clf))])
def test_pickled_and_copied_estimators_predict_the_same(fitted, iris, copied):
    again = copied(fitted)
    assert_array_equal(again.predict_proba(iris[0]), fitted.predict_proba(iris[0]))
    assert again.spectra_["fc1.weight"].equal(fitted.spectra_["fc1.weight"])


def test_it_is_shown_as_scikit_learn_shows_estimators(fitted):
    assert "HTRClassifier" in fitted._repr_html_()
    assert repr(htr.HTRClassifier(strength=3.0)) == "HTRClassifier(strength=3.0)"


# What is fitted


def test_it_is_htr_fit_on_standardised_inputs(fitted, iris):
    X, y = iris[0].to_numpy(), np.repeat([0, 1, 2], 50)
    torch.manual_seed(0)
    net = nn.Sequential()
    net.add_module("fc1", nn.Linear(4, 8, dtype=torch.float64))
    net.add_module("relu1", nn.ReLU())
    net.add_module("fc2", nn.Linear(8, 3, dtype=torch.float64))
    inputs = (X - X.mean(0)) / X.std(0)
    inputs = inputs / np.sqrt(1 + (inputs / 3) ** 2)
    posterior = htr.fit(
        htr.BayesianClassifier(net, htr.Priors(htr.ESD(htr.Lomax(2.5, 5.0)))),
        (inputs, y),
        method=htr.SVI(guide="spectral", lr=0.03, init_scale=0.5, noise="example"),
        epochs=15,
        batch_size=32,
        progress=False,
    )
    expected = posterior.predict(inputs, 32).probs.numpy()
    assert_allclose(fitted.predict_proba(iris[0]), expected, rtol=1e-4)


def test_settings_reach_the_fit(iris):
    X, y = iris
    clf = htr.HTRClassifier(
        **SMALL
        | {"method": "map", "hidden": (6, 5), "epochs": 2, "batch_size": 50}
        | {"prior": "frechet", "strength": 4.0},
        class_weight={"virginica": 3.0},
        label_smoothing=0.1,
    ).fit(X, y)
    config = clf.posterior_.config
    assert config["method"] == htr.MAP(lr=0.03).describe()
    assert config["parameters"]["fc2.weight"] == [5, 6]
    assert config["class_weights"] == [1.0, 1.0, 3.0]
    assert config["label_smoothing"] == 0.1
    assert config["train"]["batch_size"] == 50
    assert clf.n_iter_ == config["epochs"] == 2
    assert clf.posterior_.priors == htr.Priors(htr.MaxEigenvalue(htr.Frechet(2.0, 1.0))).scaled(4.0)


def test_default_strengths_depend_on_the_method(iris):
    def priors(**settings):
        defaults = SMALL | {"epochs": 1, "strength": None}
        return htr.HTRClassifier(**defaults | settings).fit(*iris).posterior_.priors

    assert priors() == htr.Priors(htr.ESD(htr.Lomax(2.5, 5.0))).scaled(2.0)
    assert priors(strength=3.0) == htr.Priors(htr.ESD(htr.Lomax(2.5, 5.0))).scaled(3.0)
    assert priors(prior="lomax") == htr.Priors(htr.ESD(htr.Lomax(2.5, 0.05)))
    assert priors(method="map") == htr.Priors(htr.ESD(htr.Lomax(2.0, 1.0))).scaled(3e-4 * 150)
    law = htr.ESD(htr.Exponential(1.0))
    assert priors(prior=law) == priors(prior=htr.Priors(law)) == htr.Priors(law)
    assert priors(prior=htr.Priors(law).scaled(2.0), strength=3.0) == htr.Priors(law).scaled(6.0)
    assert priors(prior=None) == priors(prior="none") == htr.Priors({})


def test_the_number_of_epochs_follows_the_number_of_examples():
    def epochs(num_data, steps, method=None):
        method = htr.MAP() if method is None else method
        return chosen_epochs(None, num_data=num_data, batch_size=32, method=method, steps=steps)

    assert [epochs(n, STEPS) for n in (20, 1600, 10**6)] == [500, 20, 10]
    assert [epochs(n, TABLE_STEPS) for n in (128, 800, 1600, 10**6)] == [100, 30, 20, 10]
    assert epochs(100, TABLE_STEPS, htr.NUTS()) is None


def test_defaults_of_the_default_network_are_those_of_tables(iris):
    X, y = iris
    found = htr.HTRClassifier(random_state=0).fit(X, y)
    assert found.posterior_.priors == htr.Priors(htr.ESD(htr.Lomax(2.5, 5.0))).scaled(2.0)
    method = htr.SVI(guide="spectral", lr=0.02, init_scale=0.5, noise="example")
    assert found.posterior_.config["method"] == method.describe()
    assert found.n_iter_ == 80  # of five batches, which makes 400 updates
    assert [table_lr(updates) for updates in (60, 400, 800)] == [0.02, 0.02, 0.01]


@pytest.mark.long
def test_a_noisy_table_gets_the_stronger_prior_and_a_clean_one_the_weaker():
    def strength(labels, rows=FEWEST, **settings):
        X, y = make_blobs(rows, centers=4, n_features=6, cluster_std=0.5, random_state=0)
        if labels == "noisy":
            y = np.random.RandomState(0).randint(0, 2, rows)
        clf = htr.HTRClassifier(hidden=(16,), epochs=30, random_state=0, **settings).fit(X, y)
        scaled = {k: htr.Priors(htr.ESD(htr.Lomax(2.5, 5.0))).scaled(k) for k in (1.0, 2.0, 8.0)}
        return next(k for k, priors in scaled.items() if clf.posterior_.priors == priors)

    assert strength("noisy") == 8.0
    assert strength("clean") == 2.0
    assert strength("noisy", rows=FEWEST - 1) == 2.0
    assert strength("noisy", strength=1.0) == 1.0
    assert strength("noisy", rows=FEWEST + 40, early_stopping=True) in (2.0, 8.0)


def test_a_warm_start_keeps_the_strength_that_was_chosen():
    X, _ = make_blobs(FEWEST, centers=4, n_features=6, cluster_std=0.5, random_state=0)
    y = np.random.RandomState(0).randint(0, 2, FEWEST)
    clf = htr.HTRClassifier(hidden=(16,), epochs=30, random_state=0, warm_start=True).fit(X, y)
    chosen = clf.posterior_.priors
    assert chosen == htr.Priors(htr.ESD(htr.Lomax(2.5, 5.0))).scaled(8.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "chosen_factor", None)  # calling it would fail
        clf.set_params(epochs=1).fit(X, y)
        assert clf.posterior_.priors == chosen
        with pytest.raises(TypeError, match="not callable"):
            clf.set_params(warm_start=False).fit(X, y)


def test_a_network_of_one_s_own_has_the_defaults_of_htr_fit(iris):
    X, y = iris
    found = htr.HTRClassifier(module=nn.Linear(4, 3), epochs=1, random_state=0).fit(X, y)
    assert found.posterior_.priors == htr.Priors(htr.ESD(htr.Lomax(2.5, 0.05)))
    assert found.posterior_.config["method"] == default_method(nn.Linear(4, 3)).describe()


def test_early_stopping_holds_out_some_of_each_class(iris):
    X, y = iris
    clf = htr.HTRClassifier(
        **SMALL | {"epochs": 400, "lr": 0.1}, early_stopping=True, patience=2
    ).fit(X, y)
    assert clf.n_iter_ < 400
    assert "val_nll" in clf.posterior_.history[0]
    assert clf.posterior_.config["num_data"] == 135
    held = held_out(np.array([0] * 50 + [1] * 3 + [2]), 0.4, np.random.RandomState(0))
    assert [held[:50].sum(), held[50:53].sum(), held[53:].sum()] == [20, 1, 0]


def test_a_method_with_patience_stops_early_too(iris):
    clf = htr.HTRClassifier(hidden=(8,), epochs=3, method=htr.MAP(patience=2), random_state=0)
    assert "val_nll" in clf.fit(*iris).posterior_.history[0]


def test_warm_start_goes_on_from_the_weights_and_the_scaling(iris):
    X, y = iris
    clf = htr.HTRClassifier(**SMALL | {"method": "map", "warm_start": True}).fit(X, y)
    first, mean = clf.posterior_.history[-1]["train_nll"], clf.mean_
    clf.fit(X[:100], y[:100])
    assert clf.posterior_.history[0]["train_nll"] < first * 1.5
    assert clf.mean_ is mean
    assert clf.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    with pytest.raises(htr.DataError, match=r"labels \['other'\] are not among"):
        clf.fit(X[:2], ["other", "setosa"])
    with pytest.raises(ValueError, match="expecting 4 features"):
        clf.fit(X.to_numpy()[:, :2], y)


def test_seeds_decide(iris):
    X, y = iris
    probs = [
        htr.HTRClassifier(**SMALL | {"epochs": 1, "random_state": state}).fit(X, y).predict_proba(X)
        for state in (1, 1, 2, np.random.RandomState(5), np.random.RandomState(5), None)
    ]
    assert_array_equal(probs[0], probs[1])
    assert_array_equal(probs[3], probs[4])
    assert all((probs[0] != p).any() for p in (probs[2], probs[3], probs[5]))


def test_columns_that_are_constant_are_only_shifted():
    X, y = make_blobs(60, centers=2, n_features=3, random_state=0)
    X[:, 1] = 0.1
    clf = htr.HTRClassifier(**SMALL).fit(X, y)
    assert clf.scale_[0, 1] == 1.0
    X[:, 1] += 1e-3
    assert np.isfinite(clf.predict_proba(X)).all()


def test_a_rare_value_is_bounded_as_all_inputs_are(iris):
    X, y = iris[0].to_numpy(), iris[1]
    column = np.zeros((150, 1))
    column[7] = 1.0
    X = np.hstack([X, column])
    plain = htr.HTRClassifier(**SMALL, clip=None).fit(X, y)
    clf = htr.HTRClassifier(**SMALL, clip=2.0).fit(X, y)
    standardised, bounded = plain._standardised(X), clf._standardised(X)
    assert (plain.clip_, clf.clip_) == (None, 2.0)
    assert standardised.max() > 12
    assert_allclose(bounded, standardised / np.sqrt(1 + standardised**2 / 4))
    assert np.abs(clf._standardised(1e6 * X)).max() <= 2.0
    assert htr.HTRClassifier(**SMALL, standardise=False).fit(X, y).clip_ is None
    with pytest.raises(ValueError, match=r"clip=0 must be .*greater than 0"):
        htr.HTRClassifier(**SMALL, clip=0).fit(X, y)


def test_class_weights_that_balance():
    X, y = make_blobs([90, 10], centers=None, n_features=2, cluster_std=5.0, random_state=0)
    plain = htr.HTRClassifier(**SMALL).fit(X, y)
    balanced = htr.HTRClassifier(**SMALL, class_weight="balanced").fit(X, y)
    assert (balanced.predict(X) == 1).sum() > (plain.predict(X) == 1).sum()
    assert_allclose(balanced.posterior_.config["class_weights"], [100 / 180, 5.0])


# Networks of one's own


class Images(nn.Module):
    """A small convolutional network."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.conv = nn.Conv2d(n_features, 4, 3)
        self.out = nn.Linear(4, n_classes)

    def forward(self, x):
        return self.out(self.conv(x).relu().mean((2, 3)))


@pytest.mark.parametrize("as_module", [False, True], ids=["factory", "module"])
def test_a_module_of_one_s_own_takes_images(as_module):
    random = np.random.RandomState(0)
    X, y = random.randn(40, 2, 6, 6), np.arange(40) % 2
    X[y == 1, 0] += 2.0
    X[:, 1] = 5.0 + 3.0 * X[:, 1]
    clf = htr.HTRClassifier(
        module=Images(2, 2) if as_module else Images, **SMALL | {"epochs": 40}
    ).fit(X, y)
    assert clf.score(X, y) > 0.9
    assert_allclose(clf.mean_[0, :, 0, 0], X.mean((0, 2, 3)))
    assert clf.mean_.shape == (1, 2, 1, 1)
    assert clf.clip_ is None  # only tables are clipped
    assert {"conv.weight", "out.weight"} <= set(clf.spectra_)


def test_a_module_may_take_whole_numbers():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(7, 5)
            self.out = nn.Linear(5, 2)

        def forward(self, x):
            return self.out(self.embed(x).mean(1))

    X = np.random.RandomState(0).randint(7, size=(60, 4))
    y = (X == 3).any(1)
    clf = htr.HTRClassifier(module=Words(), standardise=False, **SMALL | {"method": "map"})
    assert clf.fit(X, y).predict(X).dtype == bool


# What it adds


def test_scores_uncertainty_and_spectra(fitted, iris):
    X, y = iris
    scores = fitted.evaluate(X, y)
    assert scores["accuracy"] == fitted.score(X, y)
    picked = fitted.predict_proba(X)[np.arange(150), np.repeat([0, 1, 2], 50)]
    assert scores["nll"] == pytest.approx(-np.log(picked).mean(), rel=1e-5)
    assert_allclose(np.exp(fitted.predict_log_proba(X)), fitted.predict_proba(X), rtol=1e-6)
    information = fitted.prediction(X).mutual_information
    assert information[50:].mean() > information[:50].mean() > 0  # the other two classes overlap
    assert fitted.spectra_["fc1.weight"].shape == (100, 4)


# Bad input


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"prior": "pareto"}, htr.PriorError, "prior 'pareto' is not one of none, frechet"),
        ({"prior": htr.Lomax(2.0)}, htr.PriorError, "Lomax"),
        ({"strength": -1.0}, htr.PriorError, "strength=-1.0"),
        ({"strength": "much"}, htr.PriorError, "strength='much'"),
        ({"method": "sgd"}, ValueError, "method='sgd' must be 'svi', 'map'"),
        ({"method": htr.MAP(), "lr": 0.1}, ValueError, "lr=0.1 is for method='svi' or 'map'"),
        ({"lr": 0.0}, ValueError, "lr=0.0"),
        ({"hidden": (8, 0)}, ValueError, "hidden=0"),
        ({"hidden": 8}, ValueError, "hidden=8 must be a sequence"),
        ({"epochs": 0}, ValueError, "epochs=0"),
        ({"batch_size": 0}, ValueError, "batch_size=0"),
        ({"early_stopping": True, "patience": 0}, ValueError, "patience=0"),
        ({"early_stopping": True, "validation_fraction": 1.0}, ValueError, "validation_fraction=1"),
        ({"early_stopping": True, "validation_fraction": 1e-3}, ValueError, "holds out none"),
        (
            {"early_stopping": True, "method": "nuts", "lr": None},
            ValueError,
            "early_stopping=True is not for",
        ),
        ({"random_state": -1}, ValueError, "random_state=-1"),
        ({"module": 3}, ValueError, "module=3 must be a torch.nn.Module"),
        ({"module": lambda n, c: None}, ValueError, "it gave None"),
        ({"module": nn.Linear(4, 2)}, htr.DataError, "label 2 does not match a network with 2"),
        ({"class_weight": {"setosa": 0.0}}, htr.DataError, "must be a sequence of positive"),
        ({"device": "tpu"}, ValueError, "tpu"),
    ],
    ids=lambda value: "" if callable(value) else str(value)[:40].split(" at 0x")[0],
)
def test_settings_out_of_range(iris, settings, error, message):
    with pytest.raises(error, match=message):
        htr.HTRClassifier(**SMALL | {"epochs": 1} | settings).fit(*iris)


def test_sample_weights_are_refused_by_name(iris):
    with pytest.raises(TypeError, match="does not take sample_weight: the likelihood has weights"):
        htr.HTRClassifier(**SMALL).fit(*iris, sample_weight=np.ones(150))
    with pytest.raises(TypeError, match="fit takes X and y, not groups"):
        htr.HTRClassifier(**SMALL).fit(*iris, groups=np.ones(150))


def test_labels_that_cannot_be(fitted, iris):
    X, y = iris
    with pytest.raises(htr.DataError, match="only one class, 'setosa'"):
        htr.HTRClassifier(**SMALL).fit(X[:50], y[:50])
    with pytest.raises(htr.DataError, match=r"labels \['other'\] are not among"):
        fitted.evaluate(X[:2], ["setosa", "other"])
    with pytest.raises(htr.DataError, match=r"2 examples and labels of shape \(3,\)"):
        fitted.evaluate(X[:2], y[:3])


def test_nothing_before_fit(iris, tmp_path):
    clf = htr.HTRClassifier()
    for use in (clf.predict, clf.predict_proba, clf.prediction):
        with pytest.raises(NotFittedError):
            use(iris[0])
    with pytest.raises(NotFittedError):
        clf.save(tmp_path / "file")
    assert not hasattr(clf, "spectra_")


@pytest.mark.long
def test_without_scikit_learn_it_says_what_to_install():
    code = """
import sys
sys.modules["sklearn"] = None
from bayes_htr import *
try:
    HTRClassifier()
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "bayes-htr[sklearn]"' in done.stdout

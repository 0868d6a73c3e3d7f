"""The data sets of `python -m benchmarks tables`, and the classifiers that it compares."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn import datasets
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayes_htr as htr
from benchmarks.common.packages import LAPLACE

_ALPHAS = (1e-4, 1e-2, 1e-1, 1.0, 10.0)
_EPOCHS = 100
"""The epochs of the network that the Laplace approximation is made for."""

DATA: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
    "digits": partial(datasets.load_digits, return_X_y=True),
    "wine": partial(datasets.load_wine, return_X_y=True),
    "breast cancer": partial(datasets.load_breast_cancer, return_X_y=True),
    "iris": partial(datasets.load_iris, return_X_y=True),
    "made": partial(
        datasets.make_classification,
        1000,
        20,
        n_informative=10,
        n_classes=3,
        flip_y=0.05,
        random_state=0,
    ),
}
"""The data sets by name; `made` is `make_classification` with 5 % of labels drawn at random."""


class LastLayerLaplace(ClassifierMixin, BaseEstimator):
    """laplace-torch on the network of `HTRClassifier`: last layer, Kronecker factors, probit.

    The network is trained by Adam without a prior; the prior precision of the last layer is then
    chosen by the marginal likelihood, as the documentation of laplace-torch recommends.

    Args:
        epochs: The number of epochs.
        random_state: The seed.

    Raises:
        ImportError: In `fit`, laplace-torch is not installed.
    """

    def __init__(self, epochs: int = _EPOCHS, random_state: int = 0) -> None:
        self.epochs = epochs
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: np.ndarray) -> LastLayerLaplace:
        """Train the network and approximate the posterior, given `(N, D)` and labels `(N,)`."""
        make = LAPLACE.load().Laplace
        self.classes_, codes = np.unique(y, return_inverse=True)
        x, t = torch.as_tensor(X, dtype=torch.float32), torch.as_tensor(codes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            net = nn.Sequential(
                nn.Linear(x.shape[1], 256), nn.ReLU(), nn.Linear(256, len(self.classes_))
            )
            loader = DataLoader(TensorDataset(x, t), batch_size=32, shuffle=True)
            optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
            for _ in range(self.epochs):
                for batch, labels in loader:
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(net(batch), labels).backward()
                    optimizer.step()
            self.laplace_ = make(
                net, "classification", subset_of_weights="last_layer", hessian_structure="kron"
            )
            self.laplace_.fit(loader)
            self.laplace_.optimize_prior_precision(method="marglik")
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the probabilities of the classes, `(N, C)`."""
        x = torch.as_tensor(X, dtype=torch.float32)
        probs = self.laplace_(x, link_approx="probit").detach().double()
        return (probs / probs.sum(1, keepdim=True)).numpy()


METHODS: dict[str, Callable[[int], Any]] = {
    "HTRClassifier": lambda seed: htr.HTRClassifier(random_state=seed),
    "LogisticRegressionCV": lambda seed: make_pipeline(
        StandardScaler(),
        LogisticRegressionCV(
            scoring="neg_log_loss",
            max_iter=2000,
            l1_ratios=(0.0,),
            use_legacy_attributes=False,
            random_state=seed,
        ),
    ),
    "MLPClassifier": lambda seed: GridSearchCV(
        make_pipeline(StandardScaler(), MLPClassifier((256,), max_iter=500, random_state=seed)),
        {"mlpclassifier__alpha": _ALPHAS},
        scoring="neg_log_loss",
        cv=3,
    ),
    "HistGradientBoosting": lambda seed: HistGradientBoostingClassifier(random_state=seed),
    "laplace-torch": lambda seed: make_pipeline(
        StandardScaler(), LastLayerLaplace(random_state=seed)
    ),
}
"""What makes a classifier from a seed, by name."""

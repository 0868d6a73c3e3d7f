"""Bayesian regression with a learnt noise, against scikit-learn's BayesianRidge.

Five-fold cross-validation on the diabetes data: a linear model under the prior that BayesianRidge
has, whose scale and whose noise are learnt by SVI, and a small network under heavy-tailed priors.
Prints root mean squared error, negative log likelihood and CRPS, in standard deviations of the
target, and the coverage of 90 % intervals.

Run: `python examples/regression.py`.
"""

import warnings

import numpy as np
import torch
from pyro.infer.autoguide import AutoMultivariateNormal
from sklearn.datasets import load_diabetes
from sklearn.linear_model import BayesianRidge
from sklearn.model_selection import KFold
from torch import nn

import bayes_htr as htr

NOISE = htr.Normal(scale=htr.HalfCauchy(1.0))
RIDGE = htr.Priors({"weight": htr.Entries(htr.Normal(0.0, scale=htr.HalfCauchy(1.0)))})
HEAVY = htr.Priors(
    {"*.weight": htr.ESD(htr.Lomax(2.5, 0.05)), "*": htr.Entries(htr.Normal(0.0, 1.0))}
)
SCORES = ("rmse", "nll", "crps", "coverage:0.9")


def ridge_scores(train, test):
    """The scores of BayesianRidge, whose predictive distribution is normal."""
    ridge = BayesianRidge().fit(*train)
    mean, std = (torch.as_tensor(v) for v in ridge.predict(test[0], return_std=True))
    outputs = torch.stack([mean, std.log()], dim=1).unsqueeze(0)

    def normal(f):
        return torch.distributions.Normal(f[..., 0], f[..., 1].exp())

    likelihood = htr.BayesianModel(nn.Linear(1, 2), htr.Priors({}), likelihood=normal).likelihood
    prediction = htr.MixturePrediction(outputs, ({},), likelihood)
    y = torch.as_tensor(test[1])
    return {
        "rmse": float((prediction.mean - y).square().mean().sqrt()),
        "nll": float(-prediction.log_prob(y).mean()),
        "crps": float(prediction.crps(y).mean()),
        "coverage:0.9": float(prediction.covers(y, 0.9)),
    }


def linear_scores(train, test, epochs):
    """The scores of a linear model under the same prior, by SVI with a full covariance."""
    torch.manual_seed(0)
    model = htr.BayesianModel(nn.Linear(train[0].shape[1], 1), RIDGE, likelihood=NOISE)
    method = htr.SVI(guide=AutoMultivariateNormal, lr=0.02, init_scale=0.03)
    return htr.fit(model, train, method=method, epochs=epochs, batch_size=64).evaluate(test)


def network_scores(train, test, epochs):
    """The scores of a network of one hidden layer, by the spectral guide."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(train[0].shape[1], 32), nn.Tanh(), nn.Linear(32, 1))
    model = htr.BayesianModel(net, HEAVY, likelihood=NOISE)
    return htr.fit(model, train, method=htr.SVI(lr=0.01), epochs=epochs, batch_size=64).evaluate(
        test
    )


def main(folds: int = 5, epochs: int = 80) -> dict[str, dict[str, np.ndarray]]:
    """Print the table, and return the scores of each fold by model and score."""
    X, y = load_diabetes(return_X_y=True)
    X, y = (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()
    found: dict[str, list[dict[str, float]]] = {}
    for rows, held_out in KFold(folds, shuffle=True, random_state=0).split(X):
        train, test = (X[rows], y[rows]), (X[held_out], y[held_out])
        for name, scores in (
            ("BayesianRidge", ridge_scores(train, test)),
            ("linear, SVI", linear_scores(train, test, epochs)),
            ("network, SVI", network_scores(train, test, epochs)),
        ):
            found.setdefault(name, []).append(scores)
    table = {
        n: {s: np.array([row[s] for row in rows]) for s in SCORES} for n, rows in found.items()
    }
    print(f"{'':14}" + "".join(f"{score:>17}" for score in SCORES))
    for name, row in table.items():
        cells = [f"{v.mean():.3f} ± {v.std(ddof=1) / folds**0.5:.3f}" for v in row.values()]
        print(f"{name:14}" + "".join(f"{cell:>17}" for cell in cells))
    return table


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()

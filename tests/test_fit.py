"""`htr.fit` without a method: the posterior, by the spectral guide."""

import pytest
import torch
from torch import nn

import bayes_htr as htr

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 3
PRIORS = htr.Priors({"*.weight": htr.ESD(htr.Lomax(2.5, 0.05))})


def network(*layers):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), *layers, nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize(("layers", "noise"), [((), "example"), ((nn.BatchNorm1d(8),), "shared")])
def test_the_default_is_the_posterior(layers, noise):
    model = htr.BayesianClassifier(network(*layers), PRIORS)
    found = htr.fit(model, (X, Y), progress=False)
    method = htr.SVI(guide="spectral", lr=6e-3, init_scale=0.3, noise=noise)
    expected = htr.fit(model, (X, Y), method=method, epochs=30, progress=False)
    assert found.config["method"] == method.describe()
    assert found.config["epochs"] == 30
    assert found.evaluate((X, Y)) == expected.evaluate((X, Y))


def test_a_prior_that_is_no_density_names_map():
    model = htr.BayesianClassifier(network(), htr.Priors({"*.weight": htr.penalties.powerlaw()}))
    with pytest.raises(htr.PriorError, match="MAP"):
        htr.fit(model, (X, Y), progress=False)


def test_nuts_has_no_epochs_by_default():
    model = htr.BayesianClassifier(
        nn.Linear(6, 3), htr.Priors({"weight": htr.ESD(htr.Lomax(2.5, 0.05))})
    )
    posterior = htr.fit(model, (X, Y), method=htr.NUTS(warmup=5, samples=4), progress=False)
    assert posterior.config["epochs"] == 0

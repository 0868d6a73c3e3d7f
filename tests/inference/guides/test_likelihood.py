"""A noise that is learnt: saved, read, resumed, and beside the draws of every guide."""

from __future__ import annotations

import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn

import bayes_htr as htr
from bayes_htr.models.targets import SCALE

torch.set_num_threads(1)

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(30, 3, generator=GENERATOR)
Y = X[:, 0] + 0.2 * torch.randn(30, generator=GENERATOR)
PRIORS = htr.Priors(
    {"weight": htr.ESD(htr.Lomax(tail_index=htr.Gamma(9.0, 3.0))), "*": htr.Entries(htr.Normal())}
)
METHODS = {
    "map": htr.MAP(lr=0.05),
    "spectral": htr.SVI(lr=0.05, noise="example"),
    "meanfield": htr.SVI(guide="meanfield", lr=0.05),
    "lowrank": htr.SVI(guide="lowrank", lr=0.05),
    "pyro": htr.SVI(guide=AutoNormal, lr=0.05),
}


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Linear(3, 1)


def fit(method, epochs=4, **more):
    likelihood = htr.Normal(scale=htr.Gamma(2.0, 4.0))
    model = htr.BayesianModel(network(), PRIORS, likelihood=likelihood)
    given = {"epochs": epochs, "batch_size": 10, "progress": False}
    return htr.fit(model, (X, Y), method=method, **given | more)


@pytest.mark.parametrize("name", METHODS)
def test_saved_and_read(name, tmp_path):
    posterior = fit(METHODS[name], out=tmp_path / "run", validation=(X, Y))
    posterior.save(tmp_path / "again")
    for folder in ("run", "again"):
        loaded = htr.load(tmp_path / folder, network())
        assert loaded.likelihood == posterior.likelihood
        assert loaded.hyperparameters() == posterior.hyperparameters()
        assert loaded.evaluate((X, Y)) == posterior.evaluate((X, Y))
        first, second = (p.hyperparameter_draws(5)[SCALE] for p in (posterior, loaded))
        assert torch.equal(first, second)
        assert len(first) == (1 if name == "map" else 5)
    assert SCALE in posterior.hyperparameters()
    assert {"train_rmse", "val_rmse", "val_nll"} <= posterior.history[-1].keys()
    assert SCALE in dict(posterior.spectra(3).hyperparameters)


@pytest.mark.parametrize("name", ["map", "spectral", "pyro"])
def test_resumed_runs_are_the_same(name, tmp_path):
    method = METHODS[name]
    whole, out = fit(method), tmp_path / "run"
    fit(method, epochs=4, out=out, callbacks=[lambda event: event.epoch == 2])
    resumed = fit(method, out=out, resume=True)
    assert resumed.hyperparameters() == whole.hyperparameters()
    assert resumed.evaluate((X, Y)) == whole.evaluate((X, Y))


@pytest.mark.parametrize("name", ["map", "meanfield"])
def test_a_fit_starts_where_another_has_ended(name):
    first = fit(METHODS[name], epochs=20)
    second = fit(htr.MAP(lr=1e-30), epochs=0, init=first)
    scale = second.hyperparameters()[SCALE]
    assert scale == pytest.approx(first.hyperparameters()[SCALE], rel=1e-5)
    assert scale != pytest.approx(0.5, rel=0.05)  # the hyperprior's mean, where fits start


def test_a_run_of_another_likelihood_is_another_run(tmp_path):
    out = tmp_path / "run"
    fit(htr.MAP(), epochs=1, out=out)
    model = htr.BayesianModel(network(), PRIORS, likelihood=htr.Normal(scale=0.3))
    given = {"method": htr.MAP(), "epochs": 2, "batch_size": 10, "out": out, "resume": True}
    with pytest.raises(htr.CheckpointError, match=r"holds another run: its likelihood\.scale"):
        htr.fit(model, (X, Y), **given)
    with pytest.raises(htr.CheckpointError, match="another likelihood than"):
        htr.load(out, network(), likelihood=htr.Bernoulli())


def test_predictions_before_any_data():
    """The noise is drawn from its hyperprior, as the weights are from theirs."""
    likelihood = htr.Normal(scale=htr.Gamma(2.0, 4.0))
    model = htr.BayesianModel(network(), PRIORS, likelihood=likelihood)
    prediction = htr.prior_predictive(model, X, 2000)
    assert float(prediction.aleatoric.mean()) == pytest.approx((2 * 3 / 16) ** 0.5, rel=0.1)

"""Bad input raises an error that names it and says what to do, and nothing is written."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import bayes_htr as htr

X = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 3


def net_with(**changes):
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, changes.get("outputs", 3)))
    if (value := changes.get("value")) is not None:
        nn.init.constant_(net[2].weight, value)
    return net.requires_grad_(not changes.get("frozen", False))


ALL_FLAT = htr.Priors({})
LOG = htr.Priors({"2.weight": htr.ESD(htr.ImproperPowerlaw(2.0))})
NETWORKS = {
    "too few outputs": (net_with(outputs=2), ALL_FLAT, htr.DataError, "label 2 .* 2 outputs"),
    "no logits": (
        nn.Sequential(net_with(), nn.Flatten(0)),
        ALL_FLAT,
        htr.DataError,
        r"logits of shape \(20, classes\), not \(60,\)",
    ),
    "a tuple": (nn.LSTM(6, 3), ALL_FLAT, htr.DataError, "not <class 'tuple'>"),
    "nan": (net_with(value=float("nan")), ALL_FLAT, htr.SpectrumError, "2.weight holds 24 entries"),
    "inf": (net_with(value=float("inf")), ALL_FLAT, htr.SpectrumError, "load other weights"),
    "rank": (net_with(value=1.0), LOG, htr.SpectrumError, "2.weight has rank 1 of 3"),
    "nothing to train": (net_with(frozen=True), ALL_FLAT, ValueError, "unfreeze some"),
}


@pytest.mark.parametrize(("net", "priors", "error", "message"), NETWORKS.values(), ids=NETWORKS)
def test_networks(untouched, net, priors, error, message):
    model = htr.BayesianClassifier(net, priors)
    with pytest.raises(error, match=message):
        htr.fit(model, (X, Y), method=htr.MAP(), epochs=1, out=untouched)


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        ({"epochs": -1}, ValueError, "epochs=-1 must be a whole number of at least 0"),
        ({"epochs": 1.5}, ValueError, "epochs=1.5"),
        ({"epochs": True}, ValueError, "epochs=True"),
        ({"batch_size": 0}, ValueError, "batch_size=0 must be a whole number of at least 1"),
        ({"batch_size": 2.0}, ValueError, "batch_size=2.0"),
        ({"seed": None}, ValueError, "seed=None must be a whole number"),
        ({"seed": 0.5}, ValueError, "seed=0.5"),
        ({"method": htr.MAP(patience=3)}, ValueError, "patience=3 needs validation"),
        ({"device": "nowhere"}, ValueError, "device='nowhere' cannot be used"),
        ({"method": htr.MAP(optimizer=partial(torch.optim.Adam, betas=2))}, TypeError, "int"),
        pytest.param(
            {"method": htr.MAP(scheduler=lambda o, extra: None)}, TypeError, "extra", id="scheduler"
        ),
    ],
    ids=str,
)
def test_settings(model, untouched, setting, error, message):
    given = {"method": htr.MAP(), "epochs": 1} | setting
    with pytest.raises(error, match=message):
        htr.fit(model, (X, Y), out=untouched, **given)


def test_resume_needs_a_folder(model):
    with pytest.raises(ValueError, match="resume=True needs out="):
        htr.fit(model, (X, Y), method=htr.MAP(), epochs=1, resume=True)


@pytest.mark.parametrize("count", [2, 4])
def test_class_weights_for_other_classes(make_model, untouched, count):
    model = make_model(class_weights=[1.0] * count)
    with pytest.raises(htr.DataError, match=f"{count} class weights for a network with 3"):
        htr.fit(model, (X, Y), method=htr.MAP(), epochs=1, out=untouched)

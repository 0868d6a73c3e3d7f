"""From how many values a hyperparameter is inferred."""

import pytest
from torch import nn

import bayes_htr as htr
from bayes_htr.models.placed import informing_values, placed_parameters

LAW = htr.LogNormal(0.0, 1.0)


def test_values_of_each_statistic_and_strength():
    net = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(12, 5))
    priors = htr.Priors(
        {
            "0.weight": htr.ESD(htr.Lomax(2.0, scale=LAW)).scaled(2.0)
            & htr.Entries(htr.Normal(0.0, htr.Shared("width", LAW))),
            "2.weight": htr.MaxEigenvalue(htr.Frechet(2.0, scale=LAW)),
            "2.bias": htr.Entries(htr.Normal(0.0, htr.Shared("width", LAW))),
        }
    ).scaled(1.5)
    assert informing_values(placed_parameters(priors, net, 0).trainable) == pytest.approx(
        {
            "0.weight:ESD.scale": 2 * 1.5 * 3,
            "width": 1.5 * (24 + 5),
            "2.weight:MaxEigenvalue.scale": 1.5,
        }
    )
    assert informing_values(placed_parameters(htr.Priors({}), net, 0).trainable) == {}

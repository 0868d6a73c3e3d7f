"""Parameters taken apart into matrices and put together again."""

import pytest
import torch
from torch import nn

import bayes_htr as htr
from bayes_htr.priors.parameter_prior import grouped_entries, informing_values

LAW = htr.LogNormal(0.0, 1.0)
LAYERS = {
    "linear": nn.Linear(4, 6),
    "convolution": nn.Conv2d(4, 6, 3),
    "grouped": nn.Conv2d(4, 6, 3, groups=2),
    "transposed": nn.ConvTranspose2d(4, 6, 3),
    "square transposed": nn.ConvTranspose2d(4, 4, 3),
    "square grouped transposed": nn.ConvTranspose2d(4, 4, 3, groups=2),
    "transposed, 1 x 1": nn.ConvTranspose2d(4, 4, 1),
    "attention": nn.MultiheadAttention(4, 2),
    "recurrent": nn.LSTM(3, 3),
    "empty": nn.ParameterDict({"weight": nn.Parameter(torch.zeros(0)), "a": torch.ones(2)}),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_join_is_the_inverse_of_split(layer):
    prior = htr.Entries(htr.Normal()) if layer == "empty" else htr.ESD(htr.Lomax(2.0))
    resolved = htr.Priors({"*weight*": prior}).resolve(LAYERS[layer])
    parameters = [p for p in resolved if p.matrices]
    assert parameters
    for p in parameters:
        for leading in ((), (2,)):
            tensor = torch.randn(*leading, *p.shape)
            split = p.split(tensor)
            assert [m.shape for m in split.values()] == [(*leading, *m.shape) for m in p.matrices]
            assert torch.equal(p.join(split), tensor)
        for matrix in p.parameter.matrices:
            expected = matrix.view(p.parameter.tensor)
            assert torch.equal(p.split(p.parameter.tensor)[matrix.name], expected)


def test_small_entries_are_scored_together():
    net = nn.Sequential(nn.Linear(200, 100), nn.Linear(100, 3), nn.Linear(3, 2))
    priors = {"*.bias": htr.Entries(htr.Normal()), "*.weight": htr.Entries(htr.Normal(0.0, 2.0))}
    grouped = grouped_entries(htr.Priors(priors).densities(net).trainable)
    assert [[name for _, name in places] for _, places in grouped] == [
        ["0.bias", "1.bias", "2.bias"],
        ["1.weight", "2.weight"],
        ["0.weight"],
    ]


def test_informing_values_of_each_statistic_and_strength():
    net = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(12, 5))
    priors = htr.Priors(
        {
            "0.weight": htr.ESD(htr.Lomax(2.0, scale=LAW)).scaled(2.0)
            & htr.Entries(htr.Normal(0.0, htr.Shared("width", LAW))),
            "2.weight": htr.MaxEigenvalue(htr.Frechet(2.0, scale=LAW)),
            "2.bias": htr.Entries(htr.Normal(0.0, htr.Shared("width", LAW))),
        }
    ).scaled(1.5)
    assert informing_values(priors.densities(net, 0).trainable) == pytest.approx(
        {
            "0.weight:ESD.scale": 2 * 1.5 * 3,
            "width": 1.5 * (24 + 5),
            "2.weight:MaxEigenvalue.scale": 1.5,
        }
    )
    assert informing_values(htr.Priors({}).densities(net, 0).trainable) == {}

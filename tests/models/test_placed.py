"""Parameters taken apart into matrices and put together again."""

import pytest
import torch
from torch import nn

import bayes_htr as htr
from bayes_htr.models.placed import placed_parameters, scored_together

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
    placed = [
        p
        for p in placed_parameters(htr.Priors({"*weight*": prior}), LAYERS[layer], 0).trainable
        if p.matrices
    ]
    assert placed
    for p in placed:
        for leading in ((), (2,)):
            tensor = torch.randn(*leading, *p.shape)
            split = p.split(tensor)
            assert [m.shape for m in split.values()] == [
                (*leading, *m.prior.shape) for m in p.matrices
            ]
            assert torch.equal(p.join(split), tensor)
        for matrix in p.parameter.matrices:
            expected = matrix.view(p.parameter.tensor)
            assert torch.equal(p.split(p.parameter.tensor)[matrix.name], expected)


def test_small_entries_are_scored_together():
    net = nn.Sequential(nn.Linear(200, 100), nn.Linear(100, 3), nn.Linear(3, 2))
    priors = {"*.bias": htr.Entries(htr.Normal()), "*.weight": htr.Entries(htr.Normal(0.0, 2.0))}
    found = scored_together(placed_parameters(htr.Priors(priors), net, 0).trainable)
    assert [[name for _, name in places] for _, places in found] == [
        ["0.bias", "1.bias", "2.bias"],
        ["1.weight", "2.weight"],
        ["0.weight"],
    ]

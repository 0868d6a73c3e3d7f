"""The matrices as which a weight is analysed."""

import pytest
import torch

from bayes_htr.analysis import open_source
from tests.analysis.cases import Net


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def test_slices_of_convolutions(net):
    weights = {w.name: w for w in open_source(net).weights}
    slices = weights["conv.weight"].matrices("slices")
    assert len(slices) == weights["conv.weight"].positions == 9
    torch.testing.assert_close(slices[5], net.conv.weight.detach()[:, :, 1, 2])
    assert weights["conv.weight"].factor("slices") == 0.5
    assert weights["conv.weight"].factor("flatten") == 1.0
    assert weights["embed.weight"].factor("slices") == 1.0
    up = weights["up.weight"]
    assert up.shape == (8, 3, 2, 2) and up.sides("slices") == (8, 3) and up.count("slices") == 12
    assert up.sides("flatten") == (8, 12) and up.count("flatten") == 8

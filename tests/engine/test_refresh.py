"""When matrices are refreshed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayes_htr as htr

PRIORS = htr.Priors({"*.weight": htr.ESD(htr.Lomax(2.0, 1.0))})


@pytest.mark.parametrize("n", [1, 2, 5])
def test_every_nth_call(n):
    net = nn.Sequential(nn.Linear(8, 9))
    energy = htr.bind(PRIORS, net, refresh=htr.Every(n))
    found = []
    for _ in range(12):
        with torch.no_grad():
            net[0].weight.mul_(1.01)
        energy.backward()
        found.append(energy.refreshes["0.weight"])
    assert found == [1 + call // n for call in range(12)]
    assert energy.decompositions == found[-1]

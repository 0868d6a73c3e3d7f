from __future__ import annotations

import pytest
from torch import nn

from tests.priors.examples import LAWS, OTHERS, PRIORS, WHOLE


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`value` runs over values of every kind, `whole` over priors on networks."""
    tables = {"value": [*LAWS, *PRIORS, *WHOLE, *OTHERS], "whole": WHOLE}
    for name, table in tables.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, table, ids=lambda v: repr(v)[:60])


@pytest.fixture
def net():
    """An embedding tied to the head, a norm, attention, a frozen layer."""
    net = nn.Module()
    net.embed = nn.Embedding(9, 4)
    net.norm = nn.LayerNorm(4)
    net.attention = nn.MultiheadAttention(4, 2)
    net.frozen = nn.Linear(4, 4).requires_grad_(False)
    net.head = nn.Linear(4, 9)
    net.head.weight = net.embed.weight
    return net

from __future__ import annotations

import pytest
import torch
from torch import nn

from bayes_htr._torch import (
    evaluation_mode,
    input_dtype,
    isolated_randomness,
    modes_of,
    set_modes,
    usable_device,
)


@pytest.fixture
def net():
    """A network in training mode with one layer in evaluation mode."""
    layers = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2))
    layers[2].eval()
    return layers


def test_devices():
    assert usable_device("cpu") == torch.device("cpu") == usable_device(torch.device("cpu"))
    for name in ("cuda:99", "abacus"):
        with pytest.raises(ValueError, match=f"device='{name}' cannot be used here .*take 'cpu'"):
            usable_device(name)


def test_the_global_generator_is_put_back():
    state = torch.get_rng_state()
    with isolated_randomness():
        torch.manual_seed(5)
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), state)


def test_each_module_returns_to_its_own_mode(net):
    before = modes_of(net)
    with pytest.raises(KeyError), evaluation_mode(net):
        assert not any(module.training for module in net.modules())
        raise KeyError
    assert modes_of(net) == before
    assert net.training and not net[2].training
    net.train()
    set_modes(before)
    assert modes_of(net) == before


def parameter(*shape, dtype):
    return nn.Parameter(torch.ones(shape).to(dtype), requires_grad=False)


@pytest.mark.parametrize(
    "front",
    [
        parameter(2, dtype=torch.int8),
        parameter(2, 2, dtype=torch.int8),
        parameter(2, dtype=torch.bool),
        parameter(dtype=torch.float64),
        parameter(3, dtype=torch.float16),
        parameter(3, 3, dtype=torch.float8_e4m3fn),
        parameter(3, 3, dtype=torch.complex64),
    ],
    ids=lambda p: f"{p.dtype} {tuple(p.shape)}",
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_inputs_have_the_dtype_of_the_first_weights(front, dtype):
    net = nn.ParameterList([front, *nn.Linear(3, 2).to(dtype).parameters()])
    assert input_dtype(net) == dtype


def test_inputs_of_networks_without_weights():
    assert input_dtype(nn.ReLU()) == torch.float32
    assert input_dtype(nn.ParameterList([parameter(3, dtype=torch.int64)])) == torch.float32
    assert input_dtype(nn.ParameterList([parameter(3, dtype=torch.float64)])) == torch.float64
    assert input_dtype(nn.Linear(2, 2, dtype=torch.complex64)) == torch.complex64

"""States as bytes: nothing is lost, and what is no state is refused."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import nn

import bayes_htr as htr
from bayes_htr.engine.packing import pack, unpack

LATENT = htr.Priors(htr.MaxEigenvalue(htr.Frechet(htr.Gamma(2.0, 1.0))) & htr.ESD(htr.Lomax(2.0)))


class WithEnergy(nn.Module):
    """A module of a user that keeps the energy beside the network."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(7, 6), nn.Linear(6, 5))
        self.energy = htr.bind(LATENT, self.net)


def train(module, steps):
    for _ in range(steps):
        module.zero_grad()
        module.energy.backward(0.1)
        with torch.no_grad():
            for p in module.parameters():
                p -= 0.01 * p.grad if p.grad is not None else 0
    return module.energy().item()


def test_every_value_comes_back():
    whole = torch.randn(4, 6, dtype=torch.float64)
    state = {
        "numbers": [1, 2.5, math.inf, -0.0, True, None, "text"],
        "views": {"row": whole[1], "transposed": whole.T, "scalar": whole[0, 0]},
        "none": [],
        "half": torch.randn(3).bfloat16(),
    }
    packed = pack(state)
    assert packed.dtype == torch.uint8
    found = unpack(packed)
    assert found["numbers"] == state["numbers"]
    assert found["none"] == []
    for name, tensor in state["views"].items():
        assert torch.equal(found["views"][name], tensor)
    assert torch.equal(found["half"], state["half"])


@pytest.mark.parametrize(
    "bad", [torch.ones(3), torch.zeros(64), torch.ones(0), pack({"a": 1})[:-3], pack([])[9:]]
)
def test_other_bytes_are_refused(bad):
    energy = WithEnergy().energy
    with pytest.raises(htr.CheckpointError, match="leave out its key '_extra_state'"):
        energy.set_extra_state(bad.to(torch.uint8))


def test_a_module_with_an_energy_goes_through_safetensors_and_on_with_the_same_bits(tmp_path):
    module = WithEnergy()
    train(module, 5)
    save_model(module, str(tmp_path / "model.safetensors"))
    other = WithEnergy(seed=1)
    load_model(other, str(tmp_path / "model.safetensors"))
    assert other.energy.refreshes == module.energy.refreshes
    assert train(other, 5) == train(module, 5)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


def test_the_state_of_earlier_versions_is_read():
    module = WithEnergy()
    train(module, 3)
    state = copy.deepcopy(module.state_dict())
    earlier = unpack(state["energy._extra_state"])  # the dictionary itself
    for matrix in earlier["matrices"]:
        matrix["held"]["strengths"] = tuple(matrix["held"]["strengths"])
    other = WithEnergy(seed=1)
    other.load_state_dict({**state, "energy._extra_state": earlier})
    assert train(other, 4) == train(module, 4)


def test_a_network_that_keeps_its_own_energy_is_trained_saved_and_loaded(tmp_path):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(7, 3)
            self.energy = htr.bind(htr.Priors(htr.ESD(htr.Lomax(2.0))), self)

        def forward(self, x):
            return self.layer(x)

    net, x, y = Own(), torch.randn(20, 7), torch.arange(20) % 3
    model = htr.BayesianClassifier(net, net.energy.priors)
    run = tmp_path / "run"
    fitted = htr.fit(model, (x, y), method=htr.MAP(), epochs=1, out=run, progress=False)
    loaded = htr.load(run, net)
    assert torch.equal(loaded.network().layer.weight, fitted.network().layer.weight)

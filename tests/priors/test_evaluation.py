"""What a law cannot score is an error with a remedy that helps; so is a gradient out of range."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayes_htr as htr

PRIORS = {
    "frechet": htr.MaxEigenvalue(htr.Frechet(2.0, 1.0)),
    "plug-in": htr.penalties.frechet(),
    "whole spectrum": htr.ESD(htr.Frechet(2.0, 1.0)),
    "hyperprior": htr.MaxEigenvalue(htr.Frechet(htr.Gamma(2.0, 1.0))),
    "power law": htr.penalties.powerlaw(),
    "weighted alpha": htr.penalties.weighted_alpha(),
    "stable rank": htr.penalties.stable_rank(),
    "log normal": htr.MaxEigenvalue(htr.LogNormal(0.0, 1.0)),
    "gamma": htr.ESD(htr.Gamma(0.5, 1.0)),
    "lomax": htr.ESD(htr.Lomax(2.0)),
    "singular values": htr.SingularValues(htr.Lomax(2.0)),
    "nuclear norm": htr.penalties.nuclear_norm(),
}
FINITE_AT_0 = ("lomax", "singular values", "nuclear norm")


def network(scale: float) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 9, bias=False), nn.Linear(9, 5, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(scale * torch.randn(5, 9))
    return net


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-20, 1e-14, 1e-10, 1e-5])
@pytest.mark.parametrize("kind", PRIORS)
def test_energy_and_gradient_are_in_range_or_an_error_says_what_helps(kind, scale):
    prior, net = PRIORS[kind], network(scale)
    try:
        htr.bind(htr.Priors(prior), net)().backward()
    except htr.SpectrumError as error:
        assert kind not in FINITE_AT_0
        assert str(error).startswith("1.weight")
        assert "Priors({'1.weight': None, '*': ...})" in str(error)
        net.zero_grad()
        htr.bind(htr.Priors({"1.weight": None, "*": prior}), net)().backward()
        assert net[1].weight.grad is None
    assert torch.isfinite(
        nn.utils.get_total_norm(p.grad for p in net.parameters() if p.grad is not None)
    )


@pytest.mark.parametrize("kind", ["frechet", "hyperprior"])
def test_a_finite_energy_with_an_infinite_gradient_is_an_error(kind):
    energy = htr.bind(htr.Priors({"1.weight": PRIORS[kind]}), network(1e-10))
    for use in (energy, energy.backward):
        with pytest.raises(htr.SpectrumError, match=r"finite, and the norm of its gradient is not"):
            use()
    with torch.no_grad():
        assert torch.isfinite(energy())  # without gradients there is none to check


def test_a_double_network_has_the_range_of_doubles():
    energy = htr.bind(htr.Priors({"1.weight": PRIORS["frechet"]}), network(1e-10).double())
    energy().backward()
    assert torch.isfinite(energy.net[1].weight.grad).all()

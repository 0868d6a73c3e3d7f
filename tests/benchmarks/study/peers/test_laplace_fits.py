"""Laplace approximations: linearised predictions against autograd, and the limit of no noise."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

from benchmarks.study.peers.laplace_fits import _linearised, laplace_kron, laplace_last
from benchmarks.study.peers.training import trained_with_decay


def test_the_network_to_first_order(task, images):
    x, net = images[0][:3], task().net
    weights = {name: p.detach().double() for name, p in net.named_parameters()}
    torch.manual_seed(0)
    step = {name: torch.randn_like(w) for name, w in weights.items()}
    found = _linearised(net.double(), weights, step)(x.double())
    jacobians = torch.autograd.functional.jacobian(
        lambda *own: functional_call(net, dict(zip(weights, own, strict=True)), (x.double(),)),
        tuple(weights.values()),
    )
    naive = net(x.double()).detach()
    for J, own in zip(jacobians, step.values(), strict=True):
        naive = naive + (J.flatten(2) @ own.flatten())
    torch.testing.assert_close(found, naive)


def test_at_a_low_temperature_it_is_the_network(task, images):
    """In directions that the data say nothing about, weights keep the variance of the prior."""
    pytest.importorskip("laplace")
    x, _ = images
    plain = trained_with_decay(task({"decay": 0.0})).eval()(x).softmax(1).detach()
    for fit in (laplace_last, laplace_kron):
        cold, warm = (
            fit(task({"temperature": T, "probit": 0.0, "decay": 0.0})).predict(x, 8)
            for T in (1e-6, 1.0)
        )
        assert (cold.probs - plain).abs().mean() < 0.01
        assert (warm.probs - plain).abs().mean() > 2 * (cold.probs - plain).abs().mean()
        assert (warm.mutual_information > 0).all()

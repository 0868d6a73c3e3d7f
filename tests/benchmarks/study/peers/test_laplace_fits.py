"""Laplace approximations: linearised predictions against autograd, and the limit of no noise."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

from benchmarks.study.peers.laplace_fits import _linearised, laplace_kron, laplace_last
from benchmarks.study.peers.training import plainly_trained


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


@pytest.mark.parametrize("numbers", [{"probit": 0.0}, {"probit": 1.0}])
def test_at_a_low_temperature_it_is_the_network(task, images, numbers):
    pytest.importorskip("laplace")
    x, _ = images
    net = plainly_trained(task()).eval()
    plain = net(x).log_softmax(1).detach()
    for fit in (laplace_last, laplace_kron):
        cold = fit(task({"temperature": 1e-8, **numbers})).predict(x, 4)
        assert (cold.log_probs - plain).abs().max() < 0.02
        warm = fit(task({"temperature": 1.0, **numbers})).predict(x, 4)
        assert warm.entropy.mean() > cold.entropy.mean() + 0.01

"""Hooks on parameters see the gradient of an energy, however it is added."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.autograd.graph import register_multi_grad_hook

import bayes_htr as htr

PRIORS = htr.Priors(
    {
        "*in_proj_weight": htr.ESD(htr.Lomax(2.5)),
        "*.weight": htr.MaxEigenvalue(htr.Frechet(htr.Gamma(2.0, 1.0))) & htr.ESD(htr.Lomax(2.0)),
    }
)


class Attention(nn.Module):
    """Three matrices in one parameter, a convolution and a linear layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(8, 2)
        self.conv = nn.ConvTranspose2d(4, 3, 2)
        self.out = nn.Linear(8, 5)


def keep_a_row(gradient):
    return gradient if gradient.ndim == 0 else torch.cat([gradient[:1], 0 * gradient[1:]])


def halve(parameter):
    parameter.grad *= 0.5


HOOKS = {
    "a mask of rows": lambda p: p.register_hook(keep_a_row),
    "zero": lambda p: p.register_hook(torch.zeros_like),
    "after": lambda p: p.register_post_accumulate_grad_hook(halve),
    "several": lambda p: register_multi_grad_hook([p], p.seen.extend),
}


@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_have_the_effect_that_they_have_in_the_loss(kind):
    gradients, seen = [], []
    for in_the_loss in (True, False):
        net = Attention()
        energy = htr.bind(PRIORS, net)
        for p in [*net.parameters(), *energy.parameters()]:
            p.seen = []
            HOOKS[kind](p)
        if in_the_loss:
            (0.1 * energy()).backward()
        else:
            energy.backward(0.1)
        scored = [p for p in [*net.parameters(), *energy.parameters()] if p.grad is not None]
        gradients.append([p.grad for p in scored])
        seen.append([g for p in scored for g in p.seen])
    assert len(gradients[0]) == len(gradients[1]) > 4
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)
    assert len(seen[0]) == len(seen[1])


def test_a_hook_that_is_removed_is_none():
    net = Attention()
    energy = htr.bind(PRIORS, net)
    net.out.weight.register_hook(torch.zeros_like).remove()
    energy.backward()
    assert net.out.weight.grad.any()


def test_parameters_without_hooks_are_added_to_in_place():
    net, plain = Attention(), Attention()
    energy = htr.bind(PRIORS, net)
    before = {n: torch.ones_like(p) for n, p in net.named_parameters()}
    for n, p in net.named_parameters():
        p.grad = before[n]
    net.out.weight.register_hook(lambda g: 2 * g)
    energy.backward(0.5)
    for n, p in net.named_parameters():
        assert p.grad is before[n]
    (0.5 * htr.bind(PRIORS, plain)()).backward()
    torch.testing.assert_close(net.out.weight.grad - 1, 2 * plain.out.weight.grad)
    torch.testing.assert_close(net.conv.weight.grad - 1, plain.conv.weight.grad)


def test_hooks_see_what_a_copy_does_not_have():
    net = Attention()
    net.out.weight.register_hook(torch.zeros_like)
    twin = copy.deepcopy(net)
    htr.bind(PRIORS, twin).backward()
    assert twin.out.weight.grad.any()  # torch does not copy hooks

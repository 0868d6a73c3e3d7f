"""Shifted images, pruned networks and noisy labels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.study.conditions import (
    SHIFTS,
    blurred,
    faded,
    noisy,
    pruned,
    rotated,
    with_noisy_labels,
)


def test_rotation():
    x = torch.randn(3, 2, 8, 8)
    torch.testing.assert_close(rotated(x, 0), x, rtol=0, atol=1e-5)
    quarter = rotated(x, 90)
    turned = [torch.rot90(x, turns, (2, 3)) for turns in (1, -1)]
    assert min(float((quarter - t).abs().max()) for t in turned) < 1e-4
    torch.testing.assert_close(rotated(quarter, -90), x, rtol=0, atol=1e-4)


def test_noise_blur_and_contrast():
    x = torch.randn(50, 1, 10, 10)
    assert float((noisy(x, 0.5) - x).std()) == pytest.approx(0.5, rel=0.05)
    assert torch.equal(noisy(x, 0.5), noisy(x, 0.5))
    assert torch.equal(noisy(x[:2], 0.0), x[:2])
    flat = torch.full((1, 1, 6, 6), 3.0)
    torch.testing.assert_close(blurred(flat, 5), flat)  # the border is no darker
    blurry = blurred(x, 3)
    assert float(blurry[0, 0, 4, 4]) == pytest.approx(float(x[0, 0, 3:6, 3:6].mean()), abs=1e-6)
    torch.testing.assert_close(faded(x, 0.25), x / 4)


@pytest.mark.parametrize("kind", SHIFTS)
def test_every_shift_changes_images_more_and_more(kind):
    x = torch.randn(20, 3, 12, 12)
    moved = [float((shift(x) - x).square().mean()) for shift in SHIFTS[kind].values()]
    assert moved[0] > 0
    assert moved == sorted(moved)


def test_a_pruned_network_keeps_the_largest_singular_values():
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.Flatten(), nn.Linear(24, 10))
    small = pruned(net, 0.25)
    for name, rank in (("0.weight", 2), ("2.weight", 3)):
        before = torch.linalg.svdvals(net.get_parameter(name).detach().flatten(1))
        after = torch.linalg.svdvals(small.get_parameter(name).detach().flatten(1))
        torch.testing.assert_close(after[:rank], before[:rank])
        assert float(after[rank]) < 1e-5
    assert torch.equal(small[0].bias, net[0].bias)
    whole = pruned(net, 1.0)
    torch.testing.assert_close(whole[2].weight, net[2].weight, rtol=1e-4, atol=1e-5)


def test_noisy_labels():
    y = torch.arange(1000) % 10
    changed = with_noisy_labels(y, 0.4, 10, seed=1)
    assert int((changed != y).sum()) == 400  # always another class
    assert torch.equal(changed, with_noisy_labels(y, 0.4, 10, seed=1))
    assert not torch.equal(changed, with_noisy_labels(y, 0.4, 10, seed=2))
    steps = ((changed - y) % 10)[changed != y]
    assert sorted(steps.unique().tolist()) == list(range(1, 10))
    assert torch.equal(with_noisy_labels(y, 0.0, 10, seed=1), y)

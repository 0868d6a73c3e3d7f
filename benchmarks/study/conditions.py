"""Conditions of further tests of a fitted network: shifted images, and fewer singular values.

Images are standardised, so that a noise of standard deviation 1 is as strong as the image.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bayes_htr as htr

Shift = Callable[[Tensor], Tensor]
"""Maps images `(N, C, H, W)` to images of the same shape."""

KEPT = (1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125)
"""The shares of the singular values of each matrix that a pruned network keeps."""


def rotated(x: Tensor, degrees: float) -> Tensor:
    """Images turned about their centre; the border is continued."""
    angle = math.radians(degrees)
    rows = [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]]
    theta = x.new_tensor(rows).expand(len(x), 2, 3)
    places = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, places, padding_mode="border", align_corners=False)


def noisy(x: Tensor, deviation: float) -> Tensor:
    """Images with normal noise, the same at each call."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return x + deviation * noise.to(x.device)


def blurred(x: Tensor, width: int) -> Tensor:
    """Means over windows of an odd width; of the windows at the border, over what is inside."""
    return F.avg_pool2d(x, width, 1, width // 2, count_include_pad=False)


def faded(x: Tensor, contrast: float) -> Tensor:
    """Images whose distance from the mean of all training images is multiplied by the contrast."""
    return contrast * x


SHIFTS: Mapping[str, Mapping[float, Shift]] = {
    "rotation, degrees": {d: partial(rotated, degrees=d) for d in (15, 30, 45, 60)},
    "noise, standard deviations": {d: partial(noisy, deviation=d) for d in (0.25, 0.5, 1.0)},
    "blur, width of the window": {w: partial(blurred, width=w) for w in (3, 5)},
    "contrast lost, share": {c: partial(faded, contrast=1 - c) for c in (0.5, 0.75)},
}
"""The shifts of test images by kind and severity."""


def pruned(net: nn.Module, share: float) -> nn.Module:
    """Return a copy of a network whose matrices keep the largest singular values alone.

    Args:
        net: The network.
        share: The share of the singular values of each matrix, rounded up.
    """
    net = copy.deepcopy(net)
    with torch.no_grad():
        for W in htr.matrices_of(net).values():
            U, s, Vh = torch.linalg.svd(W.flatten(1), full_matrices=False)
            kept = math.ceil(share * len(s))
            W.copy_(((U[:, :kept] * s[:kept]) @ Vh[:kept]).view_as(W))
    return net


def with_noisy_labels(y: Tensor, share: float, classes: int, seed: int) -> Tensor:
    """Labels `(N,)` of which a random share is replaced by another class, each with equal odds.

    Args:
        y: The labels.
        share: The share of the labels, rounded.
        classes: The number of classes.
        seed: The seed.
    """
    generator = torch.Generator().manual_seed(seed)
    changed = torch.randperm(len(y), generator=generator)[: round(share * len(y))]
    step = torch.randint(1, classes, (len(changed),), generator=generator).to(y)
    noisy = y.clone()
    noisy[changed] = (y[changed] + step) % classes
    return noisy

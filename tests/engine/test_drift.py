"""How long the gradient of the largest eigenvalue can miss a new leading direction."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayes_htr as htr

TOP = htr.Priors(htr.MaxEigenvalue(htr.Frechet(2.0, 1.0)))
DRIFT = htr.Drift(0.1, check_every=4)


def spectrum(shape):
    """The decomposition of a normal matrix whose first singular value is twice the second."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(*shape, generator=generator) / shape[1] ** 0.5
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    S[0] = 2 * S[1]
    return U, S, Vh


def jump(S, step):
    """The last direction becomes the leading one at once, by a fifth."""
    S[-1] = 1.2 * S[0] if step >= 0 else S[-1]
    return S


def growth(S, step):
    """The last direction grows by 1 % of the largest singular value per step."""
    S[-1] = 0.01 * max(step, 0) * S[0]
    return S


def swap(S, step):
    """The first and the last direction change places within 60 steps."""
    share = min(1.0, max(0.0, step / 60))
    S[0], S[-1] = S[0] * (1 - share) + S[-1] * share, S[0] * share + S[-1] * (1 - share)
    return S


def longest_miss(path, shape, before=60, steps=200):
    """The largest number of calls in a row whose gradient points elsewhere."""
    U, S, Vh = spectrum(shape)
    layer = nn.Linear(shape[1], shape[0], bias=False)
    energy = htr.bind(TOP, layer, refresh=DRIFT)
    longest = missed = 0
    for call in range(steps):
        with torch.no_grad():
            now = path(S.clone(), call - before)
            layer.weight.copy_((U * now) @ Vh)
        layer.weight.grad = None
        energy.backward()
        first = now.argmax()
        gradient = layer.weight.grad
        cosine = (U[:, first] @ gradient @ Vh[first]).abs() / gradient.norm()
        leads = now[first] > 1.02 * now.topk(2).values[1]
        missed = missed + 1 if leads and cosine < 0.9 else 0
        longest = max(longest, missed)
    return longest


@pytest.mark.parametrize("shape", [(200, 150), (64, 400)], ids=str)
@pytest.mark.parametrize(("path", "calls"), [(jump, 16), (growth, 32), (swap, 32)])
def test_a_new_leading_direction_is_found(path, calls, shape):
    """Within `4 check_every` calls of a jump, and twice that where it grows among others."""
    assert longest_miss(path, shape) <= calls

"""How long the gradient of the largest eigenvalue can miss a new leading direction."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayes_htr as htr

TOP = htr.Priors(htr.MaxEigenvalue(htr.Frechet(2.0, 1.0)))
DRIFT = htr.Drift(0.1, check_every=4)


def spectrum(shape, gap=True):
    """The decomposition of a normal matrix; with a gap, the first value is twice the second."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(*shape, generator=generator) / shape[1] ** 0.5
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    S[0] = 2 * S[1] if gap else S[0]
    return U, S, Vh


def jump(S, step):
    """The last direction becomes the leading one at once, by a fifth."""
    S[-1] = 1.2 * S[0] if step >= 0 else S[-1]
    return S


def growth(S, step, rate=0.01):
    """The last direction grows by 1 % of the largest singular value per step."""
    S[-1] = rate * max(step, 0) * S[0]
    return S


def slow_growth(S, step):
    """It grows by 0.3 %, so slowly that the norm hardly changes from one update to the next."""
    return growth(S, step, 0.003)


def swap(S, step):
    """The first and the last direction change places within 60 steps."""
    share = min(1.0, max(0.0, step / 60))
    S[0], S[-1] = S[0] * (1 - share) + S[-1] * share, S[0] * share + S[-1] * (1 - share)
    return S


def longest_miss(path, shape, gap, before=60, steps=200):
    """The largest number of calls in a row whose gradient points elsewhere."""
    U, S, Vh = spectrum(shape, gap)
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


@pytest.mark.parametrize("gap", [True, False], ids=["gap", "no gap"])
@pytest.mark.parametrize("shape", [(200, 150), (64, 400)], ids=str)
@pytest.mark.parametrize("path", [jump, growth])
def test_a_new_leading_direction_is_found(path, shape, gap):
    """Within `4 check_every` calls, because the norm of what the triplets leave out grows."""
    assert longest_miss(path, shape, gap) <= 4 * DRIFT.check_every


@pytest.mark.parametrize("shape", [(200, 150), (64, 400)], ids=str)
def test_directions_that_change_places_are_told_apart_by_a_gap(shape):
    assert longest_miss(swap, shape, gap=True) <= 8 * DRIFT.check_every


@pytest.mark.parametrize("gap", [True, False], ids=["gap", "no gap"])
@pytest.mark.parametrize(("path", "steps"), [(swap, 300), (slow_growth, 600)])
def test_a_new_leading_direction_that_the_norm_does_not_show_is_found(path, steps, gap):
    """Within `36 check_every` calls: at the first update that is due for a search."""
    assert longest_miss(path, (64, 400), gap, steps=steps) <= 36 * DRIFT.check_every


def refreshes(path, shape=(200, 150), calls=100):
    U, S, Vh = spectrum(shape)
    layer = nn.Linear(shape[1], shape[0], bias=False)
    energy = htr.bind(TOP, layer, refresh=DRIFT)
    for call in range(calls):
        with torch.no_grad():
            layer.weight.copy_((U * path(S.clone(), call)) @ Vh)
        energy.backward()
    return energy.refreshes["weight"]


def test_growth_of_the_triplets_themselves_is_no_reason_for_a_search():
    """They grow by 9 %, so that the squared norm grows by more than the limit for the others."""

    def together(S, call):
        S[1:8] = 0.9 * S[0]
        S[:8] *= 1 + 0.09 * min(call / 50, 1)
        return S

    assert refreshes(together) == 1
    assert refreshes(lambda S, call: S * (1 + 0.2 * min(call / 50, 1))) > 1


def test_a_search_is_due_after_32_checks():
    assert refreshes(lambda S, call: S, calls=32 * DRIFT.check_every) == 1
    assert refreshes(lambda S, call: S, calls=36 * DRIFT.check_every + 1) == 2

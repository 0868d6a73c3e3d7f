"""Singular vectors as functions of the matrix: what the gradient at fixed vectors leaves out.

A draw `W = b W_0 + W_0 V (g - b) V'` depends on the weights `W_0` in two ways: directly, and
through the singular vectors `V`, along which it has noise. `follow` gives `V` its gradient. With
`C = W_0' W_0` and eigenvalues `lambda`,

    dv_i = sum_(a != i) v_a (v_a' dC v_i) / (lambda_i - lambda_a),

so that `v_i` turns fast where two eigenvalues are close. The singular vectors of two equal
eigenvalues are not defined, and neither are their derivatives; gaps are therefore widened:
`1 / gap` becomes `gap / (gap^2 + w^2 (lambda_i + lambda_a)^2 / 4)`, `w` the relative width.

Source: Magnus (1985), "On differentiating eigenvalues and eigenvectors"; for the widened gaps
Liao, Liu, Wang & Xiang (2019), arXiv:1903.09650.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

GAP_WIDTH = 0.3
"""The relative width within which the gap of two eigenvalues is widened."""


def inverse_gaps(eigenvalues: Tensor, free: int, width: float) -> Tensor:
    """Return `1 / (lambda_i - lambda_a)` with widened gaps, zero where `a = i`.

    Args:
        eigenvalues: `(K,)`.
        free: How many columns: `i` runs over the first `free`.
        width: The relative width; 0 for the exact inverse.

    Returns:
        `(K, free)`, `a` in rows. Equal eigenvalues have 0 there whatever the width.
    """
    columns = eigenvalues[:free]
    gap = columns - eigenvalues.unsqueeze(1)
    widened = gap.square() + (0.5 * width * (columns + eigenvalues.unsqueeze(1))).square()
    return torch.where(gap == 0, 0.0, gap / widened)


class _Follow(torch.autograd.Function):
    """Singular vectors with a gradient to their matrix."""

    @staticmethod
    def forward(ctx: Any, tall: Tensor, vectors: Tensor, rest: Tensor, inverse: Tensor) -> Tensor:
        """Return the vectors."""
        ctx.save_for_backward(tall, vectors, rest, inverse)
        return vectors.view_as(vectors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return `W (D + D')` with `D = V_all (inverse * (V_all' gradient)) V'`."""
        tall, V, rest, inverse = ctx.saved_tensors
        free = V.shape[1]
        turned = inverse[:free] * (V.mT @ gradient)
        D = V @ ((turned + turned.mT) @ V.mT)
        if rest.shape[1]:
            outer = (rest @ (inverse[free:] * (rest.mT @ gradient))) @ V.mT
            D = D + outer + outer.mT
        return tall @ D, None, None, None


def follow(tall: Tensor, vectors: Tensor, rest: Tensor, inverse: Tensor) -> Tensor:
    """Return singular vectors of the smaller side, with a gradient to the matrix.

    Args:
        tall: `(larger, K)` the matrix, or its transpose if it is wide.
        vectors: `(K, free)` singular vectors, in columns.
        rest: `(K, K - free)` the others.
        inverse: `(K, free)`, of `inverse_gaps` in the order of both.

    Returns:
        `vectors`, differentiable once with respect to `tall`.
    """
    followed: Tensor = _Follow.apply(tall, vectors, rest, inverse)
    return followed

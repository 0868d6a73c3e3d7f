"""The matrices in a parameter, both ways without an index where the entries are in order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bayes_htr.models.placed import PlacedParameter


class Layout:
    """Where the matrices of a parameter are in it.

    Args:
        placed: A parameter with the matrices that hold all of its entries.
    """

    def __init__(self, placed: PlacedParameter) -> None:
        self._shape = placed.shape
        self._shapes = [tuple(m.index.shape) for m in placed.matrices]
        self._sizes = [m.index.numel() for m in placed.matrices]
        order = torch.cat([m.index.flatten() for m in placed.matrices])
        in_order = bool((order == torch.arange(len(order))).all())
        self._order = None if in_order else order
        self._inverse = None if in_order else order.argsort()

    def split(self, tensor: Tensor) -> list[Tensor]:
        """The matrices in a parameter."""
        flat = tensor.reshape(-1)
        if self._order is not None:
            flat = flat[self._order.to(flat.device)]
        parts = flat.split(self._sizes)
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def join(self, matrices: Sequence[Tensor]) -> Tensor:
        """The inverse of `split`."""
        parts = [matrix.reshape(-1) for matrix in matrices]
        flat = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self._inverse is not None:
            flat = flat[self._inverse.to(flat.device)]
        return flat.view(self._shape)

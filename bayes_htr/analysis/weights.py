"""A weight to be analysed: where it comes from, and the matrices that it is seen as."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Conv = Literal["flatten", "slices"]

_BY_DIMENSIONS = {2: "dense", 3: "conv1d", 4: "conv2d", 5: "conv3d"}


@dataclass(frozen=True)
class Weight:
    """A tensor of two or more dimensions, the output first, that is read when it is asked for.

    Attributes:
        name: Of the parameter; with `[q]`, `[k]`, `[v]` behind it for parts of `in_proj_weight`.
        kind: Type of its layer: `dense`, `conv2d`, `embedding`, ...
        shape: `(out, in, ...)`.
        load: Reads it.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    load: Callable[[], Tensor]

    @property
    def positions(self) -> int:
        """Positions of a convolution's kernel; 1 for a matrix."""
        return math.prod(self.shape[2:])

    def sides(self, conv: Conv) -> tuple[int, int]:
        """Rows and columns of its matrices."""
        if conv == "slices":
            return self.shape[0], self.shape[1]
        return self.shape[0], math.prod(self.shape[1:])

    def count(self, conv: Conv) -> int:
        """The number of eigenvalues, of all its matrices together."""
        return min(self.sides(conv)) * (self.positions if conv == "slices" else 1)

    def matrices(self, conv: Conv) -> list[Tensor]:
        """Its matrices: itself, `out x (in kh kw)`, or one `out x in` for each kernel position."""
        tensor = self.load().detach()
        if conv == "flatten" or tensor.ndim == 2:
            return [tensor.reshape(tensor.shape[0], -1)]
        return list(tensor.flatten(2).movedim(2, 0).contiguous())

    def factor(self, conv: Conv) -> float:
        """Of its eigenvalues: 1/2 for slices, as WeightWatcher has it of convolutions."""
        return 0.5 if conv == "slices" and len(self.shape) > 2 else 1.0


@dataclass(frozen=True)
class Source:
    """The weights of a network.

    Attributes:
        label: What errors and titles call it.
        weights: In the network's own order, tied ones once.
        skipped: Tensors of two or more dimensions that are no weights, by name, and why not.
    """

    label: str
    weights: tuple[Weight, ...]
    skipped: dict[str, str]


def reason_against(shape: tuple[int, ...], floating: bool, dtype: str) -> str | None:
    """Why a tensor of two or more dimensions is no weight, or `None`."""
    if not floating or "float4" in dtype:
        return f"{dtype} is no floating-point type that can be read"
    if math.prod(shape) == 0:
        return f"it is empty: {shape}"
    return None


def kind_by_dimensions(dimensions: int) -> str:
    """The layer's type as the number of dimensions suggests it."""
    return _BY_DIMENSIONS.get(dimensions, f"{dimensions}-dimensional")


def in_projections(weight: Weight) -> tuple[Weight, ...]:
    """The query, key and value matrices of `in_proj_weight`; any other weight by itself."""
    rows = weight.shape[0]
    if not weight.name.endswith("in_proj_weight") or len(weight.shape) != 2 or rows % 3:
        return (weight,)
    third = rows // 3
    return tuple(
        Weight(
            f"{weight.name}[{part}]",
            "attention",
            (third, weight.shape[1]),
            _Rows(weight.load, i * third, (i + 1) * third),
        )
        for i, part in enumerate("qkv")
    )


@dataclass(frozen=True)
class _Rows:
    load: Callable[[], Tensor]
    start: int
    stop: int

    def __call__(self) -> Tensor:
        return self.load()[self.start : self.stop]

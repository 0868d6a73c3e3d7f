"""The weights of a network, and the matrices as which each weight is analysed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Literal

from torch import Tensor

Conv = Literal["flatten", "slices"]

_KINDS = {2: "dense", 3: "conv1d", 4: "conv2d", 5: "conv3d"}


@dataclass(frozen=True)
class Weight:
    """A tensor of two or more dimensions, the output first, which is read on demand.

    Attributes:
        name: The parameter's name, followed by `[q]`, `[k]` or `[v]` for parts of `in_proj_weight`.
        kind: The type of its layer: `dense`, `conv2d`, `embedding`, ...
        shape: `(out, in, ...)`.
        load: Reads the tensor.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    load: Callable[[], Tensor]

    @property
    def positions(self) -> int:
        """The number of positions of a convolution's kernel; 1 for a matrix."""
        return math.prod(self.shape[2:])

    def sides(self, conv: Conv) -> tuple[int, int]:
        """The numbers of rows and columns of each of its matrices."""
        if conv == "slices":
            return self.shape[0], self.shape[1]
        return self.shape[0], math.prod(self.shape[1:])

    def count(self, conv: Conv) -> int:
        """The number of eigenvalues of all its matrices together."""
        return min(self.sides(conv)) * (self.positions if conv == "slices" else 1)

    def matrices(self, conv: Conv) -> list[Tensor]:
        """Read the weight as one `out x (in kh kw)` matrix, or one `out x in` per kernel position.

        Args:
            conv: `"flatten"` for one matrix, `"slices"` for one per position.
        """
        tensor = self.load().detach()
        if conv == "flatten" or tensor.ndim == 2:
            return [tensor.reshape(tensor.shape[0], -1)]
        return list(tensor.flatten(2).movedim(2, 0).contiguous())

    def factor(self, conv: Conv) -> float:
        """The factor of its eigenvalues: 1/2 for slices of convolutions, as in WeightWatcher."""
        return 0.5 if conv == "slices" and len(self.shape) > 2 else 1.0


@dataclass
class Source:
    """The weights of a network.

    Attributes:
        label: What errors and titles call the network.
        weights: The weights in the network's own order; tied ones once.
        skipped: Tensors of two or more dimensions that are not weights, by name, with the reason.
    """

    label: str
    weights: list[Weight] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(
        self,
        name: str,
        shape: Sequence[int],
        load: Callable[[], Tensor],
        *,
        kind: str = "",
        reason: str | None = None,
    ) -> None:
        """Add a tensor of two or more dimensions.

        The query, key and value matrices of an `in_proj_weight` become three weights.

        Args:
            name: The parameter's name.
            shape: `(out, in, ...)`.
            load: Reads the tensor.
            kind: The type of its layer; by default the one that the number of dimensions suggests.
            reason: Why the tensor is not a weight, if it is not.
        """
        if reason is not None:
            self.skipped[name] = reason
            return
        kind = kind or _KINDS.get(len(shape), f"{len(shape)}-dimensional")
        rows = shape[0]
        if not name.endswith("in_proj_weight") or len(shape) != 2 or rows % 3:
            self.weights.append(Weight(name, kind, tuple(shape), load))
            return
        third = rows // 3
        for i, part in enumerate("qkv"):
            load_part = partial(_load_rows, load, i * third, (i + 1) * third)
            part_shape = (third, shape[1])
            self.weights.append(Weight(f"{name}[{part}]", "attention", part_shape, load_part))


def reason_against(shape: Sequence[int], floating: bool, dtype: str) -> str | None:
    """Why a tensor of two or more dimensions is not a weight, or `None` if it is one."""
    if not floating or "float4" in dtype:
        return f"{dtype} is no floating-point type that can be read"
    if math.prod(shape) == 0:
        return f"it is empty: {tuple(shape)}"
    return None


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name equals one of the patterns, such as `proj[q]`, or matches one by `fnmatch`."""
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def _load_rows(load: Callable[[], Tensor], start: int, stop: int) -> Tensor:
    return load()[start:stop]

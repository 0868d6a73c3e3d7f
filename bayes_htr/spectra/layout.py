"""Which axes of a tensor form its matrices: `MatrixLayout`, and its assignment by patterns.

A layout is plain data. It says which axes are rows, which are columns, and which have a matrix for
each index (`batch`). It also says how a fused block of rows splits into parts:

| tensor | layout |
|---|---|
| experts `(E, out, in)` | `MatrixLayout(batch=[0], rows=[1], columns=[2])` |
| the same with gate above up | the same, `parts=["gate", "up"]` |
| gate and up in turns | the same, `interleaved=True` |
| `qkv` of grouped queries `(6144, 4096)` | `MatrixLayout(parts="qkv", sizes=[4096, 1024, 1024])` |
| `c_attn` of GPT-2 `(in, 3 out)` | `MatrixLayout(rows=[1], columns=[0], parts="qkv")` |
| gates of an LSTM `(4 H, in)` | `MatrixLayout(parts="ifgo")` |
| heads `(in, heads, width)` | `MatrixLayout(batch=[1], rows=[2], columns=[0])` |

`Priors(..., matrices=...)` and `htr.analyze(..., matrices=...)` accept the same mapping from
patterns to layouts, in which `None` says that a tensor is no matrix.
"""

from __future__ import annotations

import math
import operator
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from bayes_htr.errors import SpectrumError
from bayes_htr.spectra.names import matches_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_NO_MATRIX = "none"
"""The word in files for `None` in Python."""


class Arrangement(NamedTuple):
    """The axes of a tensor that form one of its matrices.

    Attributes:
        split: An axis that is first split in two, and the lengths of the two new axes; `None` if no
            axis is split.
        batch: The axes with a matrix for each index.
        rows: The axes whose indices are rows, in their order.
        columns: The axes whose indices are columns, in their order.
        position: The matrix's index on the axes of the batch.
        kept: The rows that belong to the matrix.
    """

    split: tuple[int, tuple[int, int]] | None
    batch: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    position: tuple[int, ...] = ()
    kept: slice = slice(None)


@dataclass(frozen=True)
class Matrix:
    """One matrix inside a parameter.

    Attributes:
        name: The name of the parameter, followed by the part in brackets if there are several.
        shape: `(rows, columns)`.
        view: The function that returns the matrix in the tensor of the parameter, differentiably.
        part: The part, such as `q` of `in_proj_weight` or the number of an expert; empty if the
            parameter is a single matrix.
        factors: The number of columns of `B`, if the matrix is a product `B A`; its other singular
            values are always zero, and do not count.
    """

    name: str
    shape: tuple[int, int]
    view: Callable[[Tensor], Tensor]
    part: str = ""
    factors: int | None = None

    @property
    def rank(self) -> int:
        """The number `K` of singular values: the smaller side, or that of columns of `B`."""
        return min(self.shape if self.factors is None else (*self.shape, self.factors))


@dataclass(frozen=True)
class MatrixLayout:
    """The axes of a tensor that form its matrices.

    Args:
        rows: The axes whose indices are rows; negative ones count from the last.
        columns: The axes whose indices are columns; by default all others, in their order.
        batch: The axes with a matrix for each index.
        parts: The names of the parts into which the rows of each matrix split. In a string, each
            letter names a part.
        sizes: The number of rows of each part; by default all parts have the same.
        interleaved: Whether the rows belong to the parts in turns, and not one part after another.

    Raises:
        ValueError: An axis is no whole number or appears twice, there are no rows, the name of a
            part is no word or appears twice, or the sizes do not belong to the parts.
    """

    rows: Sequence[int] = (0,)
    columns: Sequence[int] | None = None
    batch: Sequence[int] = ()
    parts: Sequence[str] = ()
    sizes: Sequence[int] = ()
    interleaved: bool = False

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        for field in ("rows", "batch", "columns", "sizes"):
            given = getattr(self, field)
            if given is not None:
                set_(self, field, _whole_numbers(given, field))
        if isinstance(self.parts, Mapping) or not all(
            isinstance(part, str) and re.fullmatch(r"[\w-]+", part) for part in self.parts
        ):
            raise ValueError(f"parts={self.parts!r} must be words, such as ['gate', 'up']")
        set_(self, "parts", tuple(self.parts))
        axes = [*self.batch, *self.rows, *(self.columns or ())]
        if not self.rows or len(set(axes)) < len(axes):
            raise ValueError(f"{self!r}: name each axis once, and at least one for the rows")
        if len(set(self.parts)) < len(self.parts):
            raise ValueError(f"parts={list(self.parts)} names a part twice")
        if self.sizes and (len(self.sizes) != len(self.parts) or min(self.sizes) < 1):
            raise ValueError(
                f"sizes={list(self.sizes)} must be positive, one for each of the parts "
                f"{list(self.parts)}"
            )
        if self.interleaved and (self.sizes or not self.parts):
            raise ValueError("interleaved=True goes with parts= and without sizes=")

    def to_dict(self) -> dict[str, Any]:
        """Return the layout as lists, numbers and words, for JSON and TOML.

        Fields that have their default values are left out.
        """
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        kept = {f.name: given[f.name] for f in fields(self) if given[f.name] != f.default}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MatrixLayout:
        """Make a layout from what `to_dict` returned.

        Raises:
            ValueError: A key is unknown, or the constructor raises the error.
        """
        known = [f.name for f in fields(cls)]
        if unknown := sorted(set(map(str, data)) - set(known)):
            raise ValueError(f"a layout has no {', '.join(unknown)}; it takes {', '.join(known)}")
        return cls(**data)

    def matrices(self, name: str, shape: Sequence[int]) -> tuple[Matrix, ...]:
        """Return the matrices of a tensor.

        Args:
            name: The tensor's name, for errors and for the names of the matrices.
            shape: The tensor's shape.

        Raises:
            SpectrumError: The tensor does not have these axes, or the sizes of the parts do not add
                up to its rows.
        """
        batch, rows, columns = self._axes(name, shape)
        height = math.prod(shape[axis] for axis in rows)
        width = math.prod(shape[axis] for axis in columns)
        matrices = []
        for index in range(math.prod(shape[axis] for axis in batch)):
            where = ",".join(map(str, _unravel(index, [shape[axis] for axis in batch])))
            for part, place, count in self._parts(name, height):
                view = _Part((*batch, *rows, *columns), len(batch), index, (height, width), place)
                label = ",".join(filter(None, (where, part)))
                full = f"{name}[{label}]" if label else name
                matrices.append(Matrix(full, (count, width), view, label))
        return tuple(matrices)

    def _axes(self, name: str, shape: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        def of(axes: Sequence[int]) -> tuple[int, ...]:
            if any(not -len(shape) <= axis < len(shape) for axis in axes):
                raise SpectrumError(
                    f"{name} has shape {tuple(shape)}, and the layout names the axes {list(axes)}"
                )
            return tuple(axis % len(shape) for axis in axes)

        batch, rows = of(self.batch), of(self.rows)
        named = {*batch, *rows}
        if self.columns is None:
            columns = tuple(axis for axis in range(len(shape)) if axis not in named)
        else:
            columns = of(self.columns)
        if sorted((*batch, *rows, *columns)) != list(range(len(shape))) or not columns:
            raise SpectrumError(
                f"{name} has shape {tuple(shape)}, and its layout has the batch {batch}, the rows "
                f"{rows} and the columns {columns}; each axis has to be in one of them, and one in "
                "the columns at least"
            )
        return batch, rows, columns

    def _parts(self, name: str, height: int) -> Iterator[tuple[str, slice, int]]:
        """Yield the name of each part, the slice of its rows, and the number of its rows."""
        if not self.parts:
            yield "", slice(None), height
            return
        count = len(self.parts)
        if sum(self.sizes) != height if self.sizes else height % count:
            raise SpectrumError(
                f"{name} has {height} rows, which do not split into the parts {list(self.parts)}"
                + (f" of {list(self.sizes)} rows" if self.sizes else " of equal size")
            )
        sizes = self.sizes or (height // count,) * count
        starts = accumulate(sizes, initial=0)
        for i, (part, start, size) in enumerate(zip(self.parts, starts, sizes, strict=False)):
            yield (
                part,
                slice(i, None, count) if self.interleaved else slice(start, start + size),
                size,
            )


Layouts = tuple[tuple[str, MatrixLayout | None], ...]
"""Patterns on names with their layouts. The first match counts, and `None` stands for no matrix."""

LayoutsLike = Mapping[str, MatrixLayout | Mapping[str, Any] | str | None]
"""The layouts as a user may write them, in which a layout may also be plain data."""


def as_layouts(given: LayoutsLike | Layouts | None) -> Layouts:
    """Convert the layouts that a user or a file declares.

    Raises:
        ValueError: The value is no mapping from patterns to layouts.
    """
    if isinstance(given, tuple):
        return given
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"matrices={given!r} must be a mapping from patterns to layouts")
    layouts: list[tuple[str, MatrixLayout | None]] = []
    for pattern, layout in (given or {}).items():
        if not isinstance(pattern, str) or not pattern:
            raise ValueError(f"matrices: the pattern {pattern!r} must be a word")
        try:
            if isinstance(layout, Mapping):
                layout = MatrixLayout.from_dict(layout)
        except (TypeError, ValueError) as error:
            raise ValueError(f"matrices: {pattern!r}: {error}") from error
        if layout is not None and layout != _NO_MATRIX and not isinstance(layout, MatrixLayout):
            raise ValueError(
                f"matrices: {pattern!r}: {layout!r} is no MatrixLayout; None stands for no matrix"
            )
        layouts.append((pattern, layout if isinstance(layout, MatrixLayout) else None))
    return tuple(layouts)


def read_layouts(path: str | PathLike[str]) -> Layouts:
    """Return the layouts in the table `[matrices]` of a TOML file, such as one of priors.

    Raises:
        ValueError: The file cannot be read, is not TOML, has no such table, or has an invalid
            layout in the table; the message names the file.
    """
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(data.get("matrices"), Mapping):
            raise ValueError('there is no table [matrices], such as [matrices."*.qkv"]')
        return as_layouts(data["matrices"])
    except (OSError, ValueError) as error:  # what is no TOML or no UTF-8 is a ValueError too
        raise ValueError(f"{path}: {error}") from error


def plain_layouts(layouts: Layouts) -> dict[str, Any]:
    """Return layouts as plain data, for JSON and TOML."""
    return {
        pattern: _NO_MATRIX if layout is None else layout.to_dict() for pattern, layout in layouts
    }


def declared(layouts: Layouts, names: Sequence[str]) -> tuple[MatrixLayout | None] | None:
    """Return the layout of a tensor with these names, in a tuple; `None` if none is declared."""
    for pattern, layout in layouts:
        if matches_name(pattern, names):
            return (layout,)
    return None


def unmatched(layouts: Layouts, names: Sequence[Sequence[str]]) -> list[str]:
    """Return the patterns that match no tensor; each tensor is given by all its names."""
    return [p for p, _ in layouts if not any(matches_name(p, aliases) for aliases in names)]


@dataclass(frozen=True)
class _Part:
    """The view of a `Matrix`, which returns some rows of one of a tensor's matrices."""

    axes: tuple[int, ...]
    batch: int
    index: int
    shape: tuple[int, int]
    place: slice

    def __call__(self, tensor: Tensor) -> Tensor:
        moved = tensor if self.axes == tuple(range(tensor.ndim)) else tensor.permute(self.axes)
        sides = moved.shape[: self.batch]
        one = moved[_unravel(self.index, sides)] if self.batch else moved
        rows = one.reshape(self.shape)
        return rows if self.place == slice(None) else rows[self.place]

    def arrangement(self, shape: Sequence[int]) -> Arrangement:
        """Return the axes of a tensor of this shape that form the matrix."""
        batch, others = self.axes[: self.batch], self.axes[self.batch :]
        heights = accumulate((shape[axis] for axis in others), operator.mul, initial=1)
        count = next(i for i, height in enumerate(heights) if height == self.shape[0])
        index = _unravel(self.index, [shape[axis] for axis in batch])
        return Arrangement(None, batch, others[:count], others[count:], index, self.place)


def of_slice(matrix: Matrix) -> tuple[int, Callable[[Tensor], Tensor]] | None:
    """Return the way to read a matrix from one index of the tensor's first axis.

    There is such a way if the index contains the whole matrix.

    Returns:
        The index `i`, and the function that returns the matrix in `tensor[i : i + 1]`; `None` if
        the matrix needs more than one index.
    """
    view = matrix.view
    if not isinstance(view, _Part) or view.batch != 1 or view.axes[0] != 0:
        return None
    return view.index, replace(view, index=0)


def _unravel(index: int, sides: Sequence[int]) -> tuple[int, ...]:
    """Return the index on each axis of the element at a position in an array of these sides."""
    position: list[int] = []
    for side in reversed(sides):
        index, last = divmod(index, side)
        position.append(last)
    return tuple(reversed(position))


def _whole_numbers(given: Any, what: str) -> tuple[int, ...]:
    values = (given,) if isinstance(given, int) else given
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise ValueError(f"{what}={given!r} must be a list of whole numbers")
    if not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise ValueError(f"{what}={given!r} must be whole numbers")
    return tuple(values)

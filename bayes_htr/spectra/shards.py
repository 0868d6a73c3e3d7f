"""Where the entries of a matrix are when its parameter is spread over processes as a `DTensor`.

A placement of a `DTensor` gives each process a box of the tensor: a range of indices of each axis.
In a matrix of this tensor a box is a set of rows and a set of columns, which may be empty. What
can be done with the parts follows from this alone:

- `SUMMED`: each process has some of the rows of a tall matrix, with all their columns, or some of
  the columns of a wide one. The Gram matrix of the smaller side is then a sum over processes, and
  so is every thin product that a process cannot compute for itself;
- `GATHERED`: the parts are of the smaller side, or blocks. One process has to put the matrix
  together, which takes nothing if it has all entries already, as of an expert.

Only `DTensor`s that exist are looked at, so that nothing here imports `torch.distributed.tensor`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayes_htr.errors import SpectrumError
from bayes_htr.spectra.layout import Arrangement

SUMMED, GATHERED = "summed", "gathered"

Box = tuple[tuple[int, int], ...]
"""The first index of each axis, and the one after the last."""


def is_distributed(tensor: Tensor) -> bool:
    """Whether a tensor is a `DTensor`, which several processes hold together."""
    return hasattr(tensor, "placements")


def local_of(tensor: Tensor) -> Tensor:
    """This process's part of a `DTensor`, in the graph of the whole; a plain tensor as it is."""
    if is_distributed(tensor):
        local: Tensor = tensor.to_local()  # type: ignore[attr-defined]
        return local
    return tensor


class Piece(NamedTuple):
    """The part of a matrix that one process has.

    Attributes:
        rows: `(r,)`, the indices of its rows.
        columns: `(c,)`, the indices of its columns.
        is_first: Whether no process with a smaller coordinate has the same part as a replica.
    """

    rows: Tensor
    columns: Tensor
    is_first: bool

    @property
    def numel(self) -> int:
        """The number of entries."""
        return len(self.rows) * len(self.columns)


@dataclass(frozen=True)
class LocalPart:
    """The view of a `DTensor`, or of a process's local tensor, that is this process's part.

    Attributes:
        arrangement: The axes of the parameter that are rows and columns of the matrix.
        place: The position of the matrix's index among the batch axes of the local tensor; `None`
            if another process has it.
        chosen: The rows of the local tensor that are in the matrix.
        shape: `(r, c)`, the shape of the part.
    """

    arrangement: Arrangement
    place: tuple[int, ...] | None
    chosen: slice | Tensor
    shape: tuple[int, int]

    def __call__(self, tensor: Tensor) -> Tensor:
        """This process's part of the matrix."""
        local = local_of(tensor)
        if self.place is None or 0 in self.shape:
            return local.reshape(-1)[:0].reshape(self.shape)
        split, batch, rows, columns = self.arrangement[:4]
        moved = local.reshape(_sizes(local.shape, split)).permute(*batch, *rows, *columns)
        one = moved[self.place]
        count = math.prod(one.shape[: len(rows)])
        return one.reshape(count, self.shape[1])[self.chosen]


@dataclass(frozen=True)
class Shards:
    """The parts of one matrix, and how they are worked on together.

    Attributes:
        shape: `(m, n)`, the shape of the whole matrix.
        kind: `SUMMED` or `GATHERED`.
        wide: Whether the smaller side of a `SUMMED` matrix is that of its rows.
        pieces: The part of each process, by rank.
        local: The view that returns this process's part.
        holder: The process that has all entries, if there is one.
    """

    shape: tuple[int, int]
    kind: str
    wide: bool
    pieces: tuple[Piece, ...]
    local: LocalPart
    holder: int | None

    @classmethod
    def of(cls, name: str, tensor: Tensor, arrangement: Arrangement, shape: tuple[int, int]) -> Shards:
        """The parts of a matrix.

        Args:
            name: The name of the parameter, for errors.
            tensor: The parameter, a `DTensor` of which no placement is partial.
            arrangement: The axes of the parameter that are rows and columns of the matrix.
            shape: `(m, n)`.

        Raises:
            SpectrumError: The placements are not supported; the message names them.
        """
        mesh: Any = tensor.device_mesh  # type: ignore[attr-defined]
        boxes = _boxes(name, tensor)
        local_shape = tuple(local_of(tensor).shape)
        own = mesh.get_rank()
        if tuple(stop - start for start, stop in boxes[own][0]) != local_shape:
            raise unsupported(
                name, tensor, f"this process has a part of shape {local_shape}, which is no chunk"
            )
        pieces, views = [], []
        for box, is_first in boxes:
            piece, view = _piece(name, tensor, arrangement, box, is_first)
            pieces.append(piece)
            views.append(view)
        m, n = shape
        parts = [p for p in pieces if p.numel and p.is_first]
        by_rows = all(len(p.columns) == n for p in parts)
        by_columns = all(len(p.rows) == m for p in parts)
        holder = next((r for r, p in enumerate(pieces) if p.is_first and p.numel == m * n), None)
        kind = GATHERED
        if holder is None and ((by_rows and m >= n) or (by_columns and n >= m)):
            kind = SUMMED
        wide = m < n or (kind == SUMMED and not by_rows)
        return cls(shape, kind, wide, tuple(pieces), views[own], holder)


def unsupported(name: str, tensor: Tensor, why: str) -> SpectrumError:
    """The error about placements that are not supported."""
    placements: Any = tensor.placements  # type: ignore[attr-defined]
    mesh: Any = tensor.device_mesh  # type: ignore[attr-defined]
    return SpectrumError(
        f"{name} is a DTensor with the placements {list(placements)} on a mesh of shape "
        f"{tuple(mesh.shape)}, and {why}. Supported are Shard and Replicate, as fully_shard and "
        "tensor parallelism make them, on one mesh of all processes"
    )


def is_replicated(name: str, tensor: Tensor) -> bool:
    """Whether every process has all entries of a `DTensor`.

    Raises:
        SpectrumError: The placements are not supported.
    """
    mesh: Any = tensor.device_mesh  # type: ignore[attr-defined]
    return all(
        size == 1 or kind == "Replicate"
        for kind, size in zip(_kinds(name, tensor), mesh.shape, strict=True)
    )


def _kinds(name: str, tensor: Tensor) -> list[str]:
    """The names of the classes of the placements, one for each axis of the mesh."""
    placements: Sequence[Any] = tensor.placements  # type: ignore[attr-defined]
    kinds = [type(p).__name__ for p in placements]
    for kind in kinds:
        if kind not in ("Shard", "Replicate", "_StridedShard"):
            raise unsupported(name, tensor, f"{kind} is not supported")
    return kinds


def _boxes(name: str, tensor: Tensor) -> list[tuple[Box, bool]]:
    """The box of each process by rank, and whether it is the first of its replicas."""
    kinds = _kinds(name, tensor)
    placements: Sequence[Any] = tensor.placements  # type: ignore[attr-defined]
    mesh: Any = tensor.device_mesh  # type: ignore[attr-defined]
    sizes = tuple(mesh.shape)
    splits: dict[int, list[int]] = {}  # for each axis of the tensor those of the mesh, in order
    for strided in (False, True):  # a strided placement divides what the others have left
        for axis, (kind, placement) in enumerate(zip(kinds, placements, strict=True)):
            if kind == "Replicate" or (kind == "_StridedShard") != strided:
                continue
            before = splits.setdefault(placement.dim % tensor.ndim, [])
            done = math.prod(sizes[a] for a in before)
            if strided and (placement.split_factor != done or any(a < axis for a in before)):
                raise unsupported(
                    name, tensor, f"its split factor {placement.split_factor} is none of FSDP's"
                )
            before.append(axis)
    ranks: Tensor = mesh.mesh
    found: dict[int, tuple[Box, bool]] = {}
    for coordinate in _coordinates(sizes):
        box = tuple(
            _chunk(size, [(sizes[a], coordinate[a]) for a in splits.get(axis, [])])
            for axis, size in enumerate(tensor.shape)
        )
        is_first = all(
            c == 0 for c, kind in zip(coordinate, kinds, strict=True) if kind == "Replicate"
        )
        found[int(ranks[coordinate])] = box, is_first
    if sorted(found) != list(range(len(found))):
        raise unsupported(name, tensor, f"the mesh is of the processes {sorted(found)} alone")
    return [found[rank] for rank in range(len(found))]


def _coordinates(sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    if not sizes:
        yield ()
        return
    for first in range(sizes[0]):
        for others in _coordinates(sizes[1:]):
            yield (first, *others)


def _chunk(size: int, splits: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """A range of indices after divisions as of `torch.chunk`, each as a number and an index."""
    start, stop = 0, size
    for count, index in splits:
        length = -(-(stop - start) // count)
        start, stop = min(start + index * length, stop), min(start + (index + 1) * length, stop)
    return start, stop


def _piece(
    name: str, tensor: Tensor, arrangement: Arrangement, box: Box, is_first: bool
) -> tuple[Piece, LocalPart]:
    """The part of a matrix in a box, and the view that returns it."""
    split, batch, rows, columns, index, kept = arrangement
    ranges = list(box)
    if split is not None:
        axis, (outer, inner) = split
        if ranges[axis] != (0, outer * inner):
            raise unsupported(
                name, tensor, f"axis {axis} has {outer} groups, which the parts do not respect"
            )
        ranges[axis : axis + 1] = [(0, outer), (0, inner)]
    sides = _sizes(tensor.shape, split)
    all_rows, all_columns = (_indices(sides, ranges, axes) for axes in (rows, columns))
    place: tuple[int, ...] | None = ()
    for axis, i in zip(batch, index, strict=True):
        start, stop = ranges[axis]
        if place is not None:
            place = (*place, i - start) if start <= i < stop else None
    total = math.prod(sides[axis] for axis in rows)
    numbers = torch.full((total,), -1)
    chosen = torch.arange(total)[kept]
    numbers[chosen] = torch.arange(len(chosen))
    own = numbers[all_rows] if place is not None else all_rows[:0]
    where = (own >= 0).nonzero().reshape(-1)
    piece = Piece(own[where], all_columns, is_first)
    shape = len(piece.rows), len(piece.columns)
    return piece, LocalPart(arrangement, place, _as_slice(where), shape)


def _indices(sides: Sequence[int], ranges: Sequence[tuple[int, int]], axes: Sequence[int]) -> Tensor:
    """The positions, among the flattened `axes`, of what lies in the ranges."""
    positions = torch.zeros(1, dtype=torch.long)
    for axis in axes:
        inside = torch.arange(*ranges[axis])
        positions = (positions[:, None] * sides[axis] + inside).reshape(-1)
    return positions


def _as_slice(positions: Tensor) -> slice | Tensor:
    """Positions as a slice, where they are at equal distances, so that indexing is a view."""
    if len(positions) < 2:
        start = int(positions[0]) if len(positions) else 0
        return slice(start, start + len(positions))
    start, step = int(positions[0]), int(positions[1] - positions[0])
    stop = start + step * len(positions)
    return slice(start, stop, step) if torch.equal(
        positions, torch.arange(start, stop, step)
    ) else positions


def _sizes(shape: Sequence[int], split: tuple[int, tuple[int, int]] | None) -> list[int]:
    """The sides of a tensor after one axis was split in two; the second of these may be local."""
    sides = list(shape)
    if split is not None:
        axis, (outer, _) = split
        sides[axis : axis + 1] = [outer, sides[axis] // outer]
    return sides


def gram_of(tall: Tensor) -> Tensor:
    """`W'W` in float64 of local rows `(r, K)`, by blocks, so that the rows are not copied."""
    gram = torch.zeros(tall.shape[1], tall.shape[1], dtype=torch.float64, device=tall.device)
    for rows in tall.split(_ROWS):
        block = rows.double()
        gram.addmm_(block.T, block)
    return gram


def factor_of(tall: Tensor) -> Tensor:
    """A triangular factor `R` in float64 with `R'R = W'W` of local rows `(r, K)`, by blocks."""
    factor = tall.new_zeros(0, tall.shape[1], dtype=torch.float64)
    for rows in tall.split(max(_ROWS, tall.shape[1])):
        factor = torch.linalg.qr(torch.cat([factor, rows.double()]), mode="r").R
    return factor


def times(local: Tensor, square: Tensor, *, wide: bool) -> Tensor:
    """`W S` of a local part, or `S W` if the matrix is wide, by blocks, in the precision of `W`."""
    result = torch.empty_like(local, memory_format=torch.contiguous_format)
    axis = 1 if wide else 0
    blocks = zip(local.split(_ROWS, axis), result.split(_ROWS, axis), strict=True)
    for block, out in blocks:
        given = block.to(square.dtype)
        out.copy_(square @ given if wide else given @ square)
    return result


_ROWS = 512

View = Callable[[Tensor], Tensor]

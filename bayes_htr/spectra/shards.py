"""Where the entries of a matrix are when its parameter is spread over processes as a `DTensor`.

A placement of a `DTensor` gives each process a box of the tensor: a range of indices of each axis.
In a matrix of this tensor a box is a set of rows and a set of columns, which may be empty. What
can be done with the parts follows from this alone:

- `SUMMED`: each process has some of the rows of a tall matrix, with all their columns, or some of
  the columns of a wide one. The Gram matrix of the smaller side is then a sum over processes, and
  so is every thin product that a process cannot compute for itself;
- `GATHERED`: the parts are of the smaller side, or blocks. One process has to put the matrix
  together, which needs no communication if it has all entries already, as of an expert.

Only `DTensor`s that exist are looked at, so that nothing here imports `torch.distributed.tensor`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayes_htr.distributed import gathered, rank
from bayes_htr.errors import SpectrumError
from bayes_htr.spectra.layout import Arrangement

SUMMED, GATHERED = "summed", "gathered"

_ROWS = 512
"""The number of rows that are copied at a time."""

Box = tuple[tuple[int, int], ...]
"""The first index of each axis, and the one after the last."""


def is_distributed(tensor: Tensor) -> bool:
    """Return whether a tensor is a `DTensor`, which several processes hold together."""
    return hasattr(tensor, "placements")


def local_of(tensor: Tensor) -> Tensor:
    """Return this process's part of a `DTensor`, in the graph of the whole.

    A plain tensor is returned as it is.
    """
    if is_distributed(tensor):
        local: Tensor = tensor.to_local()  # type: ignore[attr-defined]
        return local
    return tensor


@dataclass(frozen=True)
class Replicated:
    """The view of a `DTensor` of which every process has all entries.

    Attributes:
        view: The view of a plain tensor.
    """

    view: Callable[[Tensor], Tensor]

    def __call__(self, tensor: Tensor) -> Tensor:
        """Return the matrix in the tensor.

        Raises:
            SpectrumError: The process now has only a part of the tensor.
        """
        local = local_of(tensor)
        if local.shape != tensor.shape:
            raise unsupported("a parameter", tensor, "it was replicated; bind its priors again")
        return self.view(local)


class Piece(NamedTuple):
    """The part of a matrix that one process has.

    Attributes:
        rows: `(r,)`, the indices of its rows.
        columns: `(c,)`, the indices of its columns.
        is_first: Whether no process of lower rank has the same part as a replica.
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
    """The view of a `DTensor`, or of its local tensor, that returns this process's part.

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
        """Return this process's part of the matrix."""
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
    def of(
        cls,
        name: str,
        tensor: Tensor,
        boxes: Sequence[Box],
        arrangement: Arrangement,
        shape: tuple[int, int],
    ) -> Shards:
        """Return the parts of a matrix.

        Args:
            name: The name of the parameter, for errors.
            tensor: The parameter, a `DTensor`.
            boxes: The box of each process, as `boxes_of` returns them.
            arrangement: The axes of the parameter that are rows and columns of the matrix.
            shape: `(m, n)`.

        Raises:
            SpectrumError: The placements are not supported; the message names them.
        """
        m, n = shape
        views = [_view(name, tensor, arrangement, box) for box in boxes]
        firsts = [boxes.index(box) == number for number, box in enumerate(boxes)]
        pieces = [Piece(*found[:2], first) for found, first in zip(views, firsts, strict=True)]
        parts = [p for p in pieces if p.numel and p.is_first]
        if sum(p.numel for p in parts) != m * n:
            raise unsupported(name, tensor, "the parts of all processes are not the whole")
        by_rows = all(len(p.columns) == n for p in parts)
        by_columns = all(len(p.rows) == m for p in parts)
        holder = next((r for r, p in enumerate(pieces) if p.is_first and p.numel == m * n), None)
        kind = GATHERED
        if holder is None and ((by_rows and m >= n) or (by_columns and n >= m)):
            kind = SUMMED
        wide = m < n or (kind == SUMMED and not by_rows)
        local = views[rank()][2]
        if kind == SUMMED and 0 in local.shape:  # no rows of the longer side
            local = replace(local, shape=(m, 0) if wide else (0, n))
        return cls(shape, kind, wide, tuple(pieces), local, holder)

    def replica_of(self, number: int) -> int:
        """Return the first process that has the same part as process `number`."""
        own = self.pieces[number]
        return next(
            r
            for r, p in enumerate(self.pieces)
            if torch.equal(p.rows, own.rows) and torch.equal(p.columns, own.columns)
        )


def unsupported(name: str, tensor: Tensor, why: str) -> SpectrumError:
    """Return the error about placements that are not supported."""
    placements: Any = tensor.placements  # type: ignore[attr-defined]
    mesh: Any = tensor.device_mesh  # type: ignore[attr-defined]
    return SpectrumError(
        f"{name} is a DTensor with the placements {list(placements)} on a mesh of shape "
        f"{tuple(mesh.shape)}, and {why}. Supported are Shard and Replicate, as fully_shard and "
        "tensor parallelism make them"
    )


def is_replicated(name: str, tensor: Tensor) -> bool:
    """Return whether every process has all entries of a `DTensor`.

    Raises:
        SpectrumError: The placements are not supported.
    """
    mesh: Any = tensor.device_mesh  # type: ignore[attr-defined]
    return all(
        size == 1 or kind == "Replicate"
        for kind, size in zip(_kinds(name, tensor), mesh.shape, strict=True)
    )


def _kinds(name: str, tensor: Tensor) -> list[str]:
    """Return the names of the classes of the placements, one for each axis of the mesh."""
    placements: Sequence[Any] = tensor.placements  # type: ignore[attr-defined]
    kinds = [type(p).__name__ for p in placements]
    for kind in kinds:
        if kind not in ("Shard", "Replicate", "_StridedShard"):
            raise unsupported(name, tensor, f"{kind} is not supported")
    return kinds


def boxes_of(tensors: Mapping[str, Tensor]) -> dict[str, list[Box]]:
    """Return the boxes of all processes, by rank, of each `DTensor` by name; all have to call this.

    Parts of one tensor may be on several meshes: in a network under FSDP and tensor parallelism,
    this is so for parameters that only FSDP shards. Processes with the same box have replicas.

    Raises:
        SpectrumError: The placements are not supported, or other processes have other tensors.
    """
    own: dict[str, tuple[tuple[int, ...], Box]] = {}
    failure = None
    try:
        own = {
            name: (tuple(tensor.shape), _own_box(name, tensor)) for name, tensor in tensors.items()
        }
    except SpectrumError as error:
        failure = error
    reports = gathered(None if failure is not None else own)
    if failure is not None:
        raise failure
    for number, other in enumerate(reports):
        if other is None or {n: x[0] for n, x in other.items()} != {
            n: x[0] for n, x in own.items()
        }:
            raise SpectrumError(
                f"process {number} has no DTensors, or others, for the parameters "
                f"{', '.join(own)} of this process; bind the same network in all processes"
            )
    return {name: [report[name][1] for report in reports] for name in tensors}


def _own_box(name: str, tensor: Tensor) -> Box:
    """Return the box of this process."""
    placements: Sequence[Any] = tensor.placements  # type: ignore[attr-defined]
    mesh: Any = tensor.device_mesh  # type: ignore[attr-defined]
    kinds, sizes, coordinate = _kinds(name, tensor), tuple(mesh.shape), mesh.get_coordinate()
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
    box = tuple(
        _chunk(size, [(sizes[a], coordinate[a]) for a in splits.get(axis, [])])
        for axis, size in enumerate(tensor.shape)
    )
    found = tuple(local_of(tensor).shape)
    if tuple(stop - start for start, stop in box) != found:
        raise unsupported(name, tensor, f"this process has a part of shape {found}, which is none")
    return box


def _chunk(size: int, splits: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return a range of indices after divisions such as those of `torch.chunk`.

    Each division is given as the number of chunks and the index of the chunk that is kept.
    """
    start, stop = 0, size
    for count, index in splits:
        length = -(-(stop - start) // count)
        start, stop = min(start + index * length, stop), min(start + (index + 1) * length, stop)
    return start, stop


def _view(
    name: str, tensor: Tensor, arrangement: Arrangement, box: Box
) -> tuple[Tensor, Tensor, LocalPart]:
    """Return the rows and the columns of a matrix in a box, and the view that returns this part."""
    split, batch, rows, columns, position, kept = arrangement
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
    for axis, i in zip(batch, position, strict=True):
        start, stop = ranges[axis]
        if place is not None:
            place = (*place, i - start) if start <= i < stop else None
    total = math.prod(sides[axis] for axis in rows)
    numbers = torch.full((total,), -1)
    chosen = torch.arange(total)[kept]
    numbers[chosen] = torch.arange(len(chosen))
    own = numbers[all_rows] if place is not None else all_rows[:0]
    where = (own >= 0).nonzero().reshape(-1)
    shape = len(where), len(all_columns)
    return own[where], all_columns, LocalPart(arrangement, place, _as_slice(where), shape)


def _indices(
    sides: Sequence[int], ranges: Sequence[tuple[int, int]], axes: Sequence[int]
) -> Tensor:
    """Return the positions, among the flattened `axes`, of what lies in the ranges."""
    positions = torch.zeros(1, dtype=torch.long)
    for axis in axes:
        inside = torch.arange(*ranges[axis])
        positions = (positions[:, None] * sides[axis] + inside).reshape(-1)
    return positions


def _as_slice(positions: Tensor) -> slice | Tensor:
    """Return positions as a slice where they are at equal distances.

    Indexing with a slice gives a view.
    """
    if len(positions) < 2:
        start = int(positions[0]) if len(positions) else 0
        return slice(start, start + len(positions))
    start, step = int(positions[0]), int(positions[1] - positions[0])
    stop = start + step * len(positions)
    return (
        slice(start, stop, step)
        if torch.equal(positions, torch.arange(start, stop, step))
        else positions
    )


def _sizes(shape: Sequence[int], split: tuple[int, tuple[int, int]] | None) -> list[int]:
    """Return the sides of a tensor after one axis was split in two.

    For a local tensor, the second of the two new axes has its local length.
    """
    sides = list(shape)
    if split is not None:
        axis, (outer, _) = split
        sides[axis : axis + 1] = [outer, sides[axis] // outer]
    return sides


def gram_of(tall: Tensor) -> Tensor:
    """Return `W'W` in float64 of local rows `(r, K)`.

    It is computed by blocks, so that the rows are not copied.
    """
    gram = torch.zeros(tall.shape[1], tall.shape[1], dtype=torch.float64, device=tall.device)
    for rows in tall.split(_ROWS):
        block = rows.double()
        gram.addmm_(block.T, block)
    return gram


def squared_norm_of(W: Tensor) -> float:
    """Return `|W|_F^2`, summed in float64 by blocks of rows."""
    return math.fsum(float(rows.double().square().sum()) for rows in W.split(_ROWS))


def factor_of(tall: Tensor) -> Tensor:
    """Return a triangular factor `R` with `R'R = W'W`, in float64, of local rows `(r, K)`.

    It is computed by blocks.
    """
    factor = tall.new_zeros(0, tall.shape[1], dtype=torch.float64)
    for rows in tall.split(max(_ROWS, tall.shape[1])):
        factor = torch.linalg.qr(torch.cat([factor, rows.double()]), mode="r").R
    return factor


def times(local: Tensor, square: Tensor, *, wide: bool) -> Tensor:
    """Return `W S` of a local part, or `S W` if the matrix is wide.

    It is computed by blocks, and has the precision of `W`.
    """
    result = torch.empty_like(local, memory_format=torch.contiguous_format)
    axis = 1 if wide else 0
    blocks = zip(local.split(_ROWS, axis), result.split(_ROWS, axis), strict=True)
    for block, out in blocks:
        given = block.to(square.dtype)
        out.copy_(square @ given if wide else given @ square)
    return result

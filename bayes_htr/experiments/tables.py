"""Tables of numbers and words as arrays, for the command line.

A column of numbers is one input. A column of words is one input for each of its words, 1 in the
rows that have it and 0 elsewhere (one-hot encoding). The words are those of the whole training
table, and are kept with the run.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bayes_htr.errors import DataError

_Array = npt.NDArray[Any]

_MOST_WORDS = 100
"""The largest number of different words of a column: with more, it is a name or a text."""


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are inputs.

    Attributes:
        names: The names of the columns, in the order of the inputs.
        categories: The words of each column of words, in the order of the inputs.
    """

    names: tuple[str, ...] = ()
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, path: Path, header: Sequence[str], rows: Sequence[Sequence[str]], names: Sequence[str]
    ) -> Columns:
        """Find out which columns have words, and which words these are.

        Raises:
            DataError: A column has numbers and words, a cell is empty, or a column has too many
                words.
        """
        categories = {}
        for name in names:
            cells = _cells(path, header, rows, name)
            words = [cell for cell in cells if _number(cell) is None]
            if not words:
                continue
            if len(words) < len(cells):
                row = cells.index(words[0]) + 2
                raise DataError(
                    f"{path}: row {row} has {words[0]!r} in {name!r}, which has numbers elsewhere; "
                    "fill in what is missing, or leave out the row or the column"
                )
            found = sorted(set(words))
            if len(found) > _MOST_WORDS:
                raise DataError(
                    f"{path}: {name!r} has {len(found)} different words, such as {found[0]!r}, and "
                    f"at most {_MOST_WORDS} are taken for kinds; leave out the column"
                )
            categories[name] = found
        return cls(tuple(names), categories)

    def read(self, path: Path) -> _Array:
        """Read the inputs of another table with these columns, in any order and among others.

        Returns:
            `(N, inputs)` in float64.

        Raises:
            DataError: The table cannot be read, a column is missing, a cell is no finite number, or
                a word was not in the training table.
        """
        return self.encoded(path, *_read(path))

    def encoded(self, path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> _Array:
        """Return the inputs in the rows of a table, as `read` does."""
        if missing := [name for name in self.names if name not in header]:
            raise DataError(
                f"{path} lacks {', '.join(missing)} of the training table; it has "
                f"{', '.join(header)}"
            )
        parts = []
        for name in self.names:
            cells = _cells(path, header, rows, name)
            if name in self.categories:
                parts.append(_one_hot(path, name, cells, self.categories[name]))
            else:
                parts.append(_numbers(path, name, cells)[:, None])
        return np.concatenate(parts, axis=1)


def labelled_table(path: Path, target: str | None) -> tuple[Columns, _Array, _Array]:
    """Read a table with labels.

    Args:
        path: The `.csv` file.
        target: The column with the labels, which are words or whole numbers.

    Returns:
        The columns, the inputs `(N, inputs)` and the labels `(N,)`.

    Raises:
        DataError: The table cannot be read, has no such column, or a cell is not valid.
    """
    header, rows = _read(path)
    if target is None:
        raise DataError(f"{path}: name the column with the labels by --target: {', '.join(header)}")
    if target not in header:
        raise DataError(f"{path} has no column {target!r}; there are {', '.join(header)}")
    names = [name for name in header if name != target]
    if not names:
        raise DataError(f"{path} has no column besides {target!r}")
    columns = Columns.of(path, header, rows, names)
    x = columns.encoded(path, header, rows)
    words = [row[header.index(target)].strip() for row in rows]
    if "" in words:
        raise DataError(f"{path}: row {words.index('') + 2} has no label in {target!r}")
    values = [_number(word) for word in words]
    if None in values:
        return columns, x, np.array(words)
    return columns, x, whole_labels(path, target, np.array(values, dtype=np.float64))


def whole_labels(path: Path, name: str, values: _Array) -> _Array:
    """Return labels as whole numbers.

    Raises:
        DataError: A label is no whole number.
    """
    bad = np.flatnonzero(~np.isfinite(values) | (values != np.round(values)))
    if bad.size:
        raise DataError(
            f"{path}: {name} has {values[bad[0]]} for example {bad[0]}; labels are words or whole "
            "numbers, since bayes-htr fit trains classifiers"
        )
    return values.astype(np.int64)


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table: {error}") from error
    if len(rows) < 2:
        raise DataError(f"{path} has no rows below its line of column names")
    header, *body = rows
    if len(set(header)) < len(header):
        raise DataError(f"{path}: two columns have one name: {', '.join(header)}")
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise DataError(
                f"{path}: row {number} has {len(row)} cells, and there are {len(header)} columns"
            )
    return header, body


def _cells(
    path: Path, header: Sequence[str], rows: Sequence[Sequence[str]], name: str
) -> list[str]:
    """Return the cells of a column, none of which is empty."""
    place = header.index(name)
    cells = [row[place].strip() for row in rows]
    if "" in cells:
        raise DataError(
            f"{path}: row {cells.index('') + 2} has nothing in {name!r}; fill in what is missing, "
            "or leave out the row or the column"
        )
    return cells


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _numbers(path: Path, name: str, cells: Sequence[str]) -> _Array:
    values = [_number(cell) for cell in cells]
    for row, value in enumerate(values, start=2):
        if value is None or not math.isfinite(value):
            raise DataError(
                f"{path}: row {row} has {cells[row - 2]!r} in {name!r}, a column of numbers; fill "
                "in what is missing, or leave out the row or the column"
            )
    return np.array(values, dtype=np.float64)


def _one_hot(path: Path, name: str, cells: Sequence[str], words: Sequence[str]) -> _Array:
    place = {word: i for i, word in enumerate(words)}
    for row, cell in enumerate(cells, start=2):
        if cell not in place:
            raise DataError(
                f"{path}: row {row} has {cell!r} in {name!r}, and the training table had "
                f"{', '.join(words)}"
            )
    return np.eye(len(words))[[place[cell] for cell in cells]]

"""Rows with columns, as data frames, files and terminal tables.

pandas and pyarrow are optional: `pip install "bayes-htr[tables]"`.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

from rich.table import Table
from rich.text import Text

from bayes_htr._checks import texts
from bayes_htr._files import write_output
from bayes_htr._printing import Printable, set_widths
from bayes_htr._terminal import visible

_LONGEST_WORD = 20
_SHORTEST_NAME = 16
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True)
class Records(Printable):
    """Rows of a report.

    Attributes:
        rows: One dict per row, by column; a number that is not defined is NaN or `None`.
    """

    rows: list[dict[str, Any]]

    title: ClassVar[str] = ""
    headings: ClassVar[dict[str, str]] = {}
    """The most important columns, which the terminal table shows, with their headings there."""
    narrower: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Choices of columns for narrower terminals, the widest first."""

    @property
    def columns(self) -> list[str]:
        """All columns that some row has, in order."""
        return columns_of(self.rows)

    def to_pandas(self) -> Any:
        """Make a `pandas.DataFrame`.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError('to_pandas needs pandas: pip install "bayes-htr[tables]"') from error
        return pandas.DataFrame(self.rows, columns=self.columns)

    def to_csv(self, path: str | PathLike[str]) -> Path:
        """Write a CSV file with a line of column names; undefined values are empty.

        A text that a spreadsheet would read as a formula, such as a name that begins with `=`, gets
        an apostrophe in front.

        Raises:
            OutputError: The file cannot be written.
        """

        def write(file_path: Path) -> None:
            with file_path.open(
                "w", encoding="utf-8", errors="backslashreplace", newline=""
            ) as file:
                writer = csv.DictWriter(file, self.columns, lineterminator="\n")
                writer.writeheader()
                for row in self.rows:
                    writer.writerow({k: _without_formula(v) for k, v in _defined(row).items()})

        return write_output(path, write)

    def to_json(self, path: str | PathLike[str]) -> Path:
        """Write a JSON file with `title`, `rows` and what else belongs to the report.

        Raises:
            OutputError: The file cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False, default=_plain_number) + "\n"
        return write_text(path, text)

    def to_parquet(self, path: str | PathLike[str]) -> Path:
        """Write a Parquet file.

        Raises:
            ImportError: pandas or pyarrow is not installed.
            OutputError: The file cannot be written.
        """
        pyarrow, parquet = import_parquet()
        rows = [_defined(row) for row in self.rows]
        data = {name: [_encodable(row.get(name)) for row in rows] for name in self.columns}
        table = pyarrow.table(data)
        return write_output(path, lambda file_path: parquet.write_table(table, file_path))

    def write(self, path: str | PathLike[str]) -> Path:
        """Write a file of the kind that its ending names: `.csv`, `.json` or `.parquet`.

        Raises:
            ValueError: The name has another ending.
            OutputError: The file cannot be written.
        """
        return getattr(self, f"to_{check_suffix(path)}")(path)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, in which numbers that are not finite are `None`."""
        return {"title": self.title, "rows": [_defined(row) for row in self.rows]}

    def table(self, columns: Sequence[str] | None = None, *, whole_words: bool = False) -> Table:
        """Make a table for the terminal.

        Args:
            columns: The columns; the most important ones by default.
            whole_words: Whether words and numbers are kept whole, except for names of matrices. A
                terminal that is too narrow for the table cuts it off.

        Raises:
            ValueError: A column does not exist.
        """
        names = [c for c in self.headings if c in self.columns]
        if columns is not None:
            names = list(texts(columns, "columns"))
        for name in names:
            if name not in self.columns:
                raise ValueError(f"no column {name!r}; there are {', '.join(self.columns)}")
        table = Table(title=self.title)
        for name in names:
            cells = [row.get(name) for row in self.rows]
            text = any(isinstance(cell, str) for cell in cells)
            heading = self.headings.get(name, name)
            table.add_column(
                heading,
                justify="left" if text else "right",
                overflow="fold",
                min_width=_longest_word(name, heading, cells) if whole_words else None,
            )
        for row in self.rows:
            table.add_row(*(Text(_cell(row.get(name))) for name in names))
        return table

    @property
    def superseded(self) -> tuple[str, ...]:
        """Columns that tables leave out because there are better ones."""
        return ()

    def parts(self, width: int) -> Sequence[Table | str]:
        """Return the table with as many columns as the width has room for."""
        return [self.fitting_table(width)]

    def fitting_table(self, width: int) -> Table:
        """Return the first of several choices of columns that are shown without breaking words.

        Args:
            width: The width of the terminal in characters. If none of the choices fits, the last
                one has broken words.
        """
        superseded = self.superseded
        for columns in (None, *self.narrower):
            table = self.table(
                columns and [c for c in columns if c in self.columns and c not in superseded],
                whole_words=True,
            )
            frame = 3 * len(table.columns) + 1
            if frame + sum(column.min_width or 0 for column in table.columns) <= width:
                set_widths(table, width)
                return table
        for column in table.columns:
            column.min_width = None
        return table


def columns_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return all columns that some row has, in order."""
    return list(dict.fromkeys(name for row in rows for name in row))


def import_parquet() -> tuple[Any, Any]:
    """Import `pyarrow` and `pyarrow.parquet`.

    Raises:
        ImportError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('to_parquet needs pyarrow: pip install "bayes-htr[tables]"') from error
    return pyarrow, pyarrow.parquet


def check_suffix(path: str | PathLike[str]) -> str:
    """Return the kind of file that the ending of a name tells: `csv`, `json` or `parquet`.

    Raises:
        ValueError: The name has another ending.
    """
    suffix = Path(path).suffix
    if suffix not in (".csv", ".json", ".parquet"):
        raise ValueError(f"{path} ends in {suffix!r}; tables end in .csv, .json or .parquet")
    return suffix[1:]


def write_text(path: str | PathLike[str], text: str) -> Path:
    """Write a text file in UTF-8, as `write_output` does.

    Raises:
        OutputError: The file cannot be written.
    """
    return write_output(path, lambda file_path: file_path.write_text(text, encoding="utf-8"))


def _defined(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else visible(str(value))


def _longest_word(name: str, heading: str, cells: Sequence[Any]) -> int:
    """Return the width that keeps words and numbers whole; names of matrices may break anywhere."""
    if name == "name":
        return _SHORTEST_NAME
    lines = [heading, *map(_cell, cells)]
    return min(max(len(word) for line in lines for word in line.split()), _LONGEST_WORD)


def _plain_number(number: Any) -> Any:
    """Return a number of NumPy's, such as a seed, as one of Python's."""
    return number.item()


def _encodable(value: Any) -> Any:
    """Return the value with lone surrogates as escapes, so that text can be encoded in UTF-8."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _without_formula(value: Any) -> Any:
    """Return the value, changed if a spreadsheet would read it as a formula.

    This is needed because names may be hostile.
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value

"""Rows with columns, and the forms that they are given in: data frames, files, terminal tables.

pandas and pyarrow are optional: `pip install "bayes-htr[tables]"`. Files are written aside and
renamed.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bayes_htr._files import write_output
from bayes_htr._terminal import visible

_WIDTH = 160
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True)
class Records:
    """Rows of a report.

    Attributes:
        rows: One dict per row, by column; a number that is not defined is NaN or `None`.
    """

    rows: list[dict[str, Any]]

    title: ClassVar[str] = ""
    shown: ClassVar[tuple[str, ...]] = ()
    """The columns of the terminal table."""
    headings: ClassVar[dict[str, str]] = {}
    """Shorter names of these."""

    @property
    def columns(self) -> list[str]:
        """All columns that a row has, in order."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame`.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError('to_pandas needs pandas: pip install "bayes-htr[tables]"') from error
        return pandas.DataFrame(self.rows, columns=self.columns)

    def to_csv(self, path: str | PathLike[str]) -> Path:
        """Write a CSV file with a line of names; what is not defined is empty.

        A text that a spreadsheet would take for a formula, as a name that begins with `=`, gets an
        apostrophe before it.

        Raises:
            OutputError: It cannot be written.
        """

        def write(aside: Path) -> None:
            with aside.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                writer = csv.DictWriter(file, self.columns, lineterminator="\n")
                writer.writeheader()
                for row in self.rows:
                    writer.writerow({k: _no_formula(v) for k, v in _defined(row).items()})

        return write_output(path, write)

    def to_json(self, path: str | PathLike[str]) -> Path:
        """Write a JSON file: `title`, `rows` and what else belongs to the report.

        Raises:
            OutputError: It cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False, default=_plain) + "\n"
        return write_output(path, lambda aside: aside.write_text(text, encoding="utf-8"))

    def to_parquet(self, path: str | PathLike[str]) -> Path:
        """Write a Parquet file.

        Raises:
            ImportError: pandas or pyarrow is not installed.
            OutputError: It cannot be written.
        """
        pyarrow, parquet = import_parquet()
        data = {
            name: [_encodable(_defined(r).get(name)) for r in self.rows] for name in self.columns
        }
        table = pyarrow.table(data)
        return write_output(path, lambda aside: parquet.write_table(table, aside))

    def write(self, path: str | PathLike[str]) -> Path:
        """Write the file whose kind its name says: `.csv`, `.json` or `.parquet`.

        Raises:
            ValueError: Another ending.
            OutputError: It cannot be written.
        """
        return getattr(self, f"to_{check_suffix(path)}")(path)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data; what is not a finite number is `None`."""
        return {"title": self.title, "rows": [_defined(row) for row in self.rows]}

    def table(self, columns: Sequence[str] | None = None) -> Table:
        """A table for the terminal.

        Args:
            columns: Which; the most important ones by default.

        Raises:
            ValueError: A column that there is not.
        """
        names = [c for c in self.shown if c in self.columns] if columns is None else list(columns)
        for name in names:
            if name not in self.columns:
                raise ValueError(f"no column {name!r}; there are {', '.join(self.columns)}")
        table = Table(title=self.title)
        for name in names:
            text = any(isinstance(row.get(name), str) for row in self.rows)
            heading = self.headings.get(name, name)
            table.add_column(heading, justify="left" if text else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(_shown(row.get(name))) for name in names))
        return table

    def __str__(self) -> str:
        console = Console(width=_WIDTH, color_system=None)
        with console.capture() as capture:
            console.print(self.table(), markup=False)
        return capture.get().rstrip()


def import_parquet() -> tuple[Any, Any]:
    """`pyarrow` and `pyarrow.parquet`.

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
    """The kind of file that a name says.

    Raises:
        ValueError: None that can be written.
    """
    suffix = Path(path).suffix
    if suffix not in (".csv", ".json", ".parquet"):
        raise ValueError(f"{path} ends in {suffix!r}; tables end in .csv, .json or .parquet")
    return suffix[1:]


def _defined(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def _shown(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else visible(str(value))


def _plain(number: Any) -> Any:
    """One of NumPy's, such as a seed, as Python's."""
    return number.item()


def _encodable(value: Any) -> Any:
    """Text that is UTF-8: a lone surrogate as its escape."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _no_formula(value: Any) -> Any:
    """Text that no spreadsheet computes: names come from strangers' files."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value

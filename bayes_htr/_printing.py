"""Results that print as tables: text for `print`, HTML for notebooks.

A class names its parts once, in `Printable.parts`. Ordinary tables fit into 80 columns; a table
with long names is wider than that, because names, numbers and intervals are never cut.
"""

from __future__ import annotations

import html
import shutil
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_NARROWEST = 80
_STYLE = "text-align: left; white-space: pre-wrap"


class Printable(ABC):
    """A result that shows itself as tables and lines of text."""

    @abstractmethod
    def parts(self, width: int) -> Sequence[Table | str]:
        """Return the tables and texts that are shown, from top to bottom.

        Args:
            width: The width of the terminal in characters, for a choice of columns.

        Returns:
            Tables whose cells are `Text` or plain words, and paragraphs.
        """

    def __str__(self) -> str:
        width = max(_NARROWEST, shutil.get_terminal_size((_NARROWEST, 24)).columns)
        parts = list(self.parts(width))
        width = max([width, *(narrowest(part) for part in parts if isinstance(part, Table))])
        console = Console(width=width, color_system=None, force_terminal=False)
        with console.capture() as capture:
            for part in parts:
                if isinstance(part, Table):
                    set_widths(part, width)
                    console.print(part)
                else:
                    console.print(_filled(part, width), markup=False, highlight=False)
        return "\n".join(line.rstrip() for line in capture.get().splitlines()).rstrip()

    def _repr_html_(self) -> str:
        """Return the tables and texts as HTML for notebooks, where tables have all columns."""
        return "\n".join(
            _html_table(part) if isinstance(part, Table) else f"<p>{html.escape(part)}</p>"
            for part in self.parts(10_000)
        )


def compact_table(*headings: str, title: str | None = None) -> Table:
    """Return an empty table without a frame, whose cells are plain words.

    Args:
        headings: The headings of columns.
        title: The title above them.
    """
    table = Table(
        title=title,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        pad_edge=False,
        title_justify="left",
    )
    for heading in headings:
        table.add_column(Text(heading))
    return table


def add_row(table: Table, cells: Sequence[str], *, wrapped: Sequence[int] = ()) -> None:
    """Add a row of plain words, in which square brackets are no markup.

    Args:
        table: The table.
        cells: The words.
        wrapped: The columns whose cells may be broken into lines between words; the others are
            kept whole.
    """
    for i, (column, cell) in enumerate(zip(table.columns, cells, strict=True)):
        pieces = cell.split() if i in wrapped else [cell]
        longest = max(map(cell_len, [*_plain(column.header).split(), *pieces]), default=0)
        column.min_width = max(column.min_width or 0, longest)
    table.add_row(*map(Text, cells))


def set_widths(table: Table, width: int) -> None:
    """Share out a width among the columns, so that each has at least its `min_width`.

    Columns that are short of little are widened first. `rich` itself lets a table grow beyond its
    terminal rather than take width from one column for another. A table stays as it is without
    `min_width`, with widths of its own, or if it is too wide.

    Args:
        table: The table.
        width: The width of the terminal in characters.
    """
    least = [column.min_width or 0 for column in table.columns]
    room = width - narrowest(table)
    if not all(least) or room < 0 or any(column.width for column in table.columns):
        return
    longest = [
        max(cell_len(line) for cell in (c.header, *c.cells) for line in _plain(cell).split("\n"))
        for c in table.columns
    ]
    missing = [max(0, natural - given) for natural, given in zip(longest, least, strict=True)]
    for i in sorted(range(len(missing)), key=missing.__getitem__):
        given = min(missing[i], room)
        room -= given
        table.columns[i].width = least[i] + given


def narrowest(table: Table) -> int:
    """Return the width in characters below which cells of a table would be cut."""
    probe = Console(width=10_000, color_system=None)
    return Measurement.get(probe, probe.options, table).minimum


def _filled(text: str, width: int) -> str:
    """Break the lines of a text between words, but not between a number and its %."""
    kept = text.replace(" %", "\xa0%").splitlines()
    return "\n".join(textwrap.fill(line, width) for line in kept).replace("\xa0%", " %")


def _html_table(table: Table) -> str:
    """Return a table as HTML, without the styles of a terminal."""
    caption = f"<caption>{html.escape(str(table.title))}</caption>" if table.title else ""
    head = "".join(f'<th style="{_STYLE}">{_escaped(c.header)}</th>' for c in table.columns)
    rows = "".join(f"<tr>{''.join(cells)}</tr>" for cells in _html_rows(table))
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _html_rows(table: Table) -> Iterator[list[str]]:
    for row in zip(*(column.cells for column in table.columns), strict=True):
        yield [f'<td style="{_STYLE}">{_escaped(cell)}</td>' for cell in row]


def _escaped(cell: object) -> str:
    return html.escape(_plain(cell))


def _plain(cell: object) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)

"""Tables of text for the terminal, Markdown and LaTeX, and pages of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

NOTHING = "-"
"""The sign for a value that was not measured."""


@dataclass(frozen=True)
class TextTable:
    """A table.

    Attributes:
        title: The title.
        columns: The headings of the columns.
        rows: The rows, with a text for each column.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def show(self, console: Console) -> None:
        """Print it at its own width, so that a narrow terminal cuts nothing off."""
        table = Table(title=self.title, box=SIMPLE_HEAD)
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="left" if number < 2 else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*(text.replace("[", r"\[") for text in row))
        wide = Console(file=console.file, width=1000, force_terminal=console.is_terminal)
        wide.width = max(console.width, wide.measure(table).maximum)
        wide.print(table)

    def markdown(self) -> str:
        """As Markdown, with the title as a heading."""
        rule = ["---" if number < 2 else "---:" for number in range(len(self.columns))]
        lines = [self.columns, rule, *self.rows]
        body = "\n".join(
            "| " + " | ".join(text.replace("|", r"\|") for text in line) + " |" for line in lines
        )
        return f"## {self.title}\n\n{body}\n"

    def latex(self) -> str:
        """As a LaTeX table of the packages booktabs and adjustbox, no wider than the text."""
        aligned = "".join("l" if number < 2 else "r" for number in range(len(self.columns)))
        lines = [_latex_row(self.columns), r"\midrule", *(_latex_row(row) for row in self.rows)]
        return "\n".join(
            [
                r"\begin{table}",
                rf"\caption{{{_escaped(self.title)}}}",
                r"\begin{adjustbox}{max width=\textwidth}",
                rf"\begin{{tabular}}{{{aligned}}}",
                r"\toprule",
                *lines,
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{adjustbox}",
                r"\end{table}",
                "",
            ]
        )


_LATEX = str.maketrans(
    {c: rf"\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def _escaped(text: str) -> str:
    return text.translate(_LATEX)


def _latex_row(texts: Sequence[str]) -> str:
    # Braces keep a row that begins with a bracket from being read as an option of `\\`.
    return " & ".join(f"{{{_escaped(text)}}}" for text in texts) + r" \\"


def page(
    heading: str,
    tables: Sequence[TextTable],
    *,
    introduction: str = "",
    pictures: Sequence[Path] = (),
    settings: Sequence[str] = (),
    runs: Sequence[Mapping[str, Any]],
) -> str:
    """Return a Markdown page.

    Args:
        heading: The heading of the page.
        tables: The tables of the page.
        introduction: A paragraph before the tables.
        pictures: Files beside the page that it shows.
        settings: A line for each item of the section on settings.
        runs: Facts about the machines and commands that the results come from.
    """
    parts = [f"# {heading}\n", *([introduction] if introduction else [])]
    parts += [table.markdown() for table in tables]
    parts += [f"![{picture.stem}]({picture.name})\n" for picture in pictures]
    if settings:
        parts.append("## Settings\n\n" + "\n".join(f"- {line}" for line in settings) + "\n")
    listed = "\n".join(f"- {_facts(run)}" for run in runs)
    return "\n".join([*parts, f"## Measured on\n\n{listed}\n"])


def mean(values: Iterable[float], unit: float, digits: int) -> str:
    """Return a mean with its standard deviation, if there are several values, in a unit."""
    found = list(values)
    text = f"{unit * fmean(found):.{digits}f}"
    return f"{text} ({unit * stdev(found):.{digits}f})" if len(found) > 1 else text


def spread(values: dict[str, float] | None, digits: int = 3) -> str:
    """Return a median with its range."""
    if values is None:
        return NOTHING
    low, high = (f"{values[end]:.{digits}f}" for end in ("min", "max"))
    return f"{values['median']:.{digits}f} ({low}–{high})"


def number(value: float | None, form: str) -> str:
    """Return a number in a format, or the sign for a missing value."""
    return NOTHING if value is None else format(value, form)


def counts(refreshes: dict[str, int] | None) -> str:
    """Return the range of the numbers of refreshes of all matrices."""
    if not refreshes:
        return NOTHING
    low, high = min(refreshes.values()), max(refreshes.values())
    return str(low) if low == high else f"{low}–{high}"


def part_settings(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line for each kind of part and each of its settings, with the cells that have them.

    Args:
        results: Parts by name, by cell, as in `Results.cells`.
    """
    cells: dict[str, dict[str, None]] = {}
    for cell, parts in results.items():
        for name, part in parts.items():
            kind, _, seed = name.partition("/")
            shown = {k: v for k, v in part["settings"].items() if not (seed and k == "seed")}
            text = ", ".join(f"{k} {_short(v)}" for k, v in shown.items())
            cells.setdefault(f"{kind}: {text}", {})[cell] = None
    return [f"{line} ({', '.join(those)})" for line, those in cells.items()]


def _short(value: Any) -> str:
    if isinstance(value, dict):  # a refresh policy
        arguments = ", ".join(f"{k}={v}" for k, v in value.items() if k != "type")
        return f"{value['type']}({arguments})"
    return str(value)


def _facts(run: Mapping[str, Any]) -> str:
    """Return the machine and the command of a run, as a line of Markdown."""
    gpu = f"{run['gpu']}; " if run["gpu"] else ""
    return (
        f"{run['date']}: {gpu}{run['cpu']}, {run['cores']} cores, {run['threads']} threads; "
        f"torch {run['torch']}, Python {run['python']}, bayes_htr {run['bayes_htr']}: "
        f"`{run['command']}`"
    )

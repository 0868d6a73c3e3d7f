"""A table of text, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.common.results import Results

NOTHING = "-"
"""What stands where nothing was measured."""


@dataclass(frozen=True)
class TextTable:
    """A table.

    Attributes:
        title: What it shows.
        columns: Their headings.
        rows: A text for each column.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def show(self, console: Console) -> None:
        """Print it at its own width: in a terminal that is narrower nothing is cut off."""
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
    results: Results, heading: str, tables: Sequence[TextTable], settings: Sequence[str]
) -> str:
    """A Markdown page: tables, settings, and what they were measured on."""
    listed = "\n".join(f"- {line}" for line in settings)
    runs = "\n".join(f"- {facts(run)}" for run in results.runs)
    return "\n".join(
        [
            f"# {heading}\n",
            *(table.markdown() for table in tables),
            f"## Settings\n\n{listed}\n",
            f"## Measured on\n\n{runs}\n",
        ]
    )


def spread(values: dict[str, float] | None, digits: int = 3) -> str:
    """A median with its range."""
    if values is None:
        return NOTHING
    low, high = (f"{values[end]:.{digits}f}" for end in ("min", "max"))
    return f"{values['median']:.{digits}f} ({low}–{high})"


def number(value: float | None, form: str) -> str:
    """A number in a format, or the sign for none."""
    return NOTHING if value is None else format(value, form)


def counts(refreshes: dict[str, int] | None) -> str:
    """Refreshes of all matrices: the range of their numbers."""
    if not refreshes:
        return NOTHING
    low, high = min(refreshes.values()), max(refreshes.values())
    return str(low) if low == high else f"{low}–{high}"


def part_settings(results: Results) -> list[str]:
    """A line for each kind of part and each of its settings, with the cells that have them."""
    cells: dict[str, dict[str, None]] = {}
    for cell, parts in results.cells.items():
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


def facts(run: dict[str, Any]) -> str:
    """What a run was measured on, as a line of Markdown."""
    gpu = f"{run['gpu']}; " if run["gpu"] else ""
    return (
        f"{run['date']}: {gpu}{run['cpu']}, {run['cores']} cores, {run['threads']} threads; "
        f"torch {run['torch']}, Python {run['python']}, bayes_htr {run['bayes_htr']}: "
        f"`{run['command']}`"
    )

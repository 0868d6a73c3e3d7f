"""The report of a study: tables in the terminal, as Markdown and as LaTeX, and figures."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from bayes_htr.benchmarks.generalisation.outcomes import Outcomes
from bayes_htr.benchmarks.generalisation.run_log import RunLog
from bayes_htr.benchmarks.generalisation.study_pictures import draw_study
from bayes_htr.benchmarks.generalisation.study_tables import study_tables
from bayes_htr.benchmarks.tables import facts
from bayes_htr.inference.run_folder import write_aside


def write_report(log: RunLog, console: Console) -> None:
    """Print the tables, and write `generalisation.md`, `generalisation.tex` and the figures.

    Raises:
        OSError: A file cannot be written.
    """
    folder = log.path.parent
    outcomes = Outcomes(log)
    tables = study_tables(outcomes)
    for table in tables:
        table.show(console)
    machines = "\n".join(f"- {facts(line['settings'])}" for line in log.of("machine"))
    parts = ["# Does it generalise better?\n", *(table.markdown() for table in tables)]
    markdown = "\n".join([*parts, f"## Measured on\n\n{machines}\n"])
    latex = "\n".join(table.latex() for table in tables)
    written = [_written(folder / "generalisation.md", markdown)]
    written.append(_written(folder / "generalisation.tex", latex))
    try:
        written += draw_study(outcomes, folder)
    except ImportError as error:
        console.print(f"no pictures: {error}", markup=False)
    for path in written:
        console.print(f"written: {path}", markup=False, highlight=False, soft_wrap=True)


def _written(path: Path, text: str) -> Path:
    write_aside(path, lambda aside: aside.write_text(text, encoding="utf-8"))
    return path

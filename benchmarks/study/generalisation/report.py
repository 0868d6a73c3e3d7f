"""The report of a study: tables in the terminal, as Markdown and as LaTeX, and figures."""

from __future__ import annotations

from rich.console import Console

from benchmarks.common.results import write_text
from benchmarks.common.tables import facts
from benchmarks.study.generalisation.csv_files import write_csv
from benchmarks.study.generalisation.outcomes import Outcomes
from benchmarks.study.generalisation.pictures import draw_study
from benchmarks.study.generalisation.run_log import RunLog
from benchmarks.study.generalisation.tables import study_tables

HOW_TO_READ = """\
Differences are first less second, paired by seed, of runs on the same split from the same weights.
Intervals of 95 % and p-values (sign flips, two-sided) speak of other seeds on these training and
test images; the interval "over seeds and images" speaks of other test images too. "Holm over cells"
corrects one comparison for the cells, "Holm over all" for all comparisons of the table. Accuracy is
"ahead" or "behind" where p after Holm over cells is below 0.05 and the interval over seeds and
images has one sign, "on these images" where only p is. With n seeds no p is below 2^(1 - n): three
seeds cannot tell. A run that left the finite numbers counts as chance.
"""


def write_report(log: RunLog, console: Console) -> None:
    """Print the tables, and write `generalisation.md`, `.tex`, `runs.csv`, `layers.csv`, figures.

    Raises:
        OutputError: A file cannot be written.
    """
    folder = log.path.parent
    outcomes = Outcomes(log)
    tables = study_tables(outcomes)
    for table in tables:
        table.show(console)
    machines = "\n".join(f"- {facts(line['settings'])}" for line in log.of("machine"))
    written = write_csv(outcomes, folder)
    try:
        pictures = draw_study(outcomes, folder)
    except ImportError as error:
        console.print(f"no pictures: {error}", markup=False)
        pictures = []
    parts = ["# Does it generalise better?\n", HOW_TO_READ, *(t.markdown() for t in tables)]
    parts += [f"![{picture.stem}]({picture.name})\n" for picture in pictures]
    markdown = "\n".join([*parts, f"## Measured on\n\n{machines}\n"])
    latex = "\n".join(["% Packages: booktabs, adjustbox.", *(t.latex() for t in tables)])
    written.append(write_text(folder / "generalisation.md", markdown))
    written.append(write_text(folder / "generalisation.tex", latex))
    written += pictures
    for path in written:
        console.print(f"written: {path}", markup=False, highlight=False, soft_wrap=True)

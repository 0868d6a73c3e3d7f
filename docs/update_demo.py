"""Write what `make demo` prints and draws into the README and the docs.

`make readme` runs the demo and then this. Between the marks `<!-- demo: NAME -->` and
`<!-- end -->` a page gets the part of that name; the picture goes to `docs/images`.

Run: `python docs/update_demo.py RUN`, `RUN` being the folder of the demo's run.
"""

import re
import shutil
import sys
from pathlib import Path

from rich.console import Console, Group

from bayes_htr.report import RunReport

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/tutorial.md")
MARKS = re.compile(r"(<!-- demo: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def parts(report: RunReport) -> dict[str, str]:
    """The parts of the demo's output by name."""
    return {
        "scores": text(Group(report.score_table(), "", report.comparison())),
        "spectra": text(report.spectra_table()),
        "differences": text(report.difference_table()),
    }


def text(shown: object) -> str:
    """As a terminal of 80 columns shows it."""
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(shown, markup=False, highlight=False)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n")


def main(run: Path) -> None:
    """Update the pages and the picture from a run folder."""
    report = RunReport.read(run)
    found = parts(report)
    for name in PAGES:
        page = ROOT / name
        written = MARKS.sub(
            lambda m: f"{m[1]}```console\n{found[m[2]]}\n```\n{m[3]}",
            page.read_text(encoding="utf-8"),
        )
        page.write_text(written, encoding="utf-8")
    report.draw()
    shutil.copy(run / "spectra.png", ROOT / "docs" / "images" / "digits-spectra.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

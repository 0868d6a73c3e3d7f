"""The documentation runs: Python blocks, TOML files of priors, and command lines.

In README.md and docs/*.md, the blocks of a file marked `python` are executed in order in one
namespace; each `toml` block is read as priors; each line of a `bash` block that starts with
`bayes-htr`, `python -m bayes_htr` or `python -m benchmarks` goes through the parser of that command
line. What must not run is marked `text`, and shown output `console`. A Python block that imports a
package of the extra `integrations` runs where that package is installed.
"""

import re
import shlex
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import torch

import bayes_htr as htr
from bayes_htr import _terminal, cli
from benchmarks import __main__ as benchmarks

ROOT = Path(__file__).resolve().parents[1]
PAGES = [p for p in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if p.exists()]
LANGUAGES = {"python", "toml", "bash", "console", "text", "bibtex"}
MUST_RUN = ("README.md", "docs/tutorial.md")
COMMANDS = {
    ("bayes-htr",): cli.build_parser,
    ("python", "-m", "bayes_htr"): cli.build_parser,
    ("python", "-m", "benchmarks"): benchmarks.build_parser,
}
"""How a command line starts, and what parses the rest of it."""
OPTIONAL = {"accelerate", "lightning", "peft", "schedulefree", "skorch", "transformers"}


class Block(NamedTuple):
    language: str
    code: str
    line: int
    """Of the block's first line of code in its file, from 1."""


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    found: list[Block] = []
    opened: tuple[str, str, int] | None = None
    indent = 0
    body: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if opened is None:
            if match := re.match(r"( *)(`{3,}|~{3,}) *([\w-]*)", line):
                opened, body = (match[2], match[3], number + 1), []
                indent = len(match[1])
        elif line.strip() == opened[0]:
            found.append(Block(opened[1], "\n".join(body) + "\n", opened[2]))
            opened = None
        else:
            body.append(line[min(indent, len(line) - len(line.lstrip())) :])
    if opened is not None:
        raise ValueError(f"{written(page)}:{opened[2]}: a block that is never closed")
    return found


def written(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def chosen(language: str) -> list:
    """A test case for every block of a language."""
    return [
        pytest.param(page, block, id=f"{written(page)}:{block.line}")
        for page in PAGES
        for block in blocks(page)
        if block.language == language
    ]


@pytest.fixture
def quiet(tmp_path, monkeypatch):
    """A temporary working directory, pictures without a screen, one thread, no progress bar."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg", force=True)
    monkeypatch.setattr(_terminal.sys.stderr, "isatty", lambda: False, raising=False)
    threads, random = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(random)
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES, ids=written)
def test_python_blocks_run(page, quiet):
    code = [block for block in blocks(page) if block.language == "python"]
    headings = re.findall(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if written(page) in MUST_RUN and headings:
        assert code, f"{written(page)} shows no Python that runs"
    namespace, missing = ModuleType("__main__").__dict__, set()
    for block in code:
        imported = set(re.findall(r"^(?:from|import) (\w+)", block.code, flags=re.MULTILINE))
        if not_there := {name for name in imported & OPTIONAL if find_spec(name) is None}:
            missing |= not_there
            continue
        # Empty lines before it give errors the line of the page.
        source = "\n" * (block.line - 1) + block.code
        exec(compile(source, str(page), "exec"), namespace)
    if missing:
        pytest.skip(f"all blocks ran but those that need {', '.join(sorted(missing))}")


@pytest.mark.parametrize(("page", "block"), chosen("toml"))
def test_toml_blocks_are_priors(page, block, tmp_path):
    file = tmp_path / "priors.toml"
    file.write_text(block.code, encoding="utf-8")
    priors = htr.Priors.from_toml(file)
    assert htr.Priors.from_dict(priors.to_dict()) == priors


@pytest.mark.parametrize(("page", "block"), chosen("bash"))
def test_bash_blocks_parse(page, block):
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and "=" in words[0]:  # a variable of the environment
            del words[0]
        for start, build_parser in COMMANDS.items():
            if words[: len(start)] == [*start] and words[len(start) :] != ["--help"]:
                try:
                    build_parser().parse_args(words[len(start) :])
                except SystemExit as stopped:
                    assert not stopped.code, f"{written(page)}: {line!r} is no command"


@pytest.mark.parametrize("page", PAGES, ids=written)
def test_blocks_have_a_known_language(page):
    unknown = [b for b in blocks(page) if b.language not in LANGUAGES]
    assert not unknown, [f"{written(page)}:{b.line}: {b.language!r}" for b in unknown]


@pytest.mark.parametrize("page", PAGES, ids=written)
def test_links_between_pages_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f"{written(page)} links to {target}, which does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), flags=re.M)
            slugs = {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{written(page)} links to {target}; headings are {slugs}"


def test_headings_go_down_one_level_at_a_time():
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        levels = [len(h) for h in re.findall(r"^(#+) ", text, flags=re.M)]
        assert all(b <= a + 1 for a, b in pairwise(levels)), written(page)

"""No layer imports a higher one, the library no benchmark, and no kind of benchmarks another."""

import ast
from pathlib import Path

import pytest

import bayes_htr

PACKAGE = Path(bayes_htr.__file__).parent
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
LAYERS = [
    "errors",
    "processes",
    "drawing",
    "distributions",
    "spectra",
    "tails",
    "priors",
    "engine",
    "models",
    "inference",
    "posterior",
    "analysis",
    "fit",
    "analysis",
    "report",
    "experiments",
    "cli",
    "__main__",
]


def imports(path: Path, package: str) -> set[str]:
    """What a file imports of a package, by its name directly in there; `""` for all of it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {f"{name.name}." for name in node.names}
    return {name.split(".")[1] for name in found if name.startswith(f"{package}.")}


@pytest.mark.parametrize(
    "path", [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py"], ids=str
)
def test_imports_go_down(path: Path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for name in imports(path, "bayes_htr").intersection(LAYERS):
        assert LAYERS.index(name) <= LAYERS.index(own), f"{path} imports {name}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=str)
def test_the_library_does_not_import_the_benchmarks(path: Path):
    assert not imports(path, "benchmarks")


@pytest.mark.parametrize("kind", ["common", "cost", "tails", "study"])
def test_a_kind_of_benchmarks_imports_no_other_kind(kind: str):
    for path in (BENCHMARKS / kind).rglob("*.py"):
        others = imports(path, "benchmarks") - {kind, "common"}
        assert not others, f"{path} imports {others}"

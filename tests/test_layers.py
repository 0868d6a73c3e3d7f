"""A lower layer never imports a higher one."""

import ast
from pathlib import Path

import pytest

import bayes_htr

PACKAGE = Path(bayes_htr.__file__).parent
LAYERS = [
    "errors",
    "launcher",
    "visible",
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
    "fitting",
    "report",
    "experiments",
    "benchmarks",
    "commands",
    "cli",
    "__main__",
]


def layer(module: str) -> int:
    return LAYERS.index(module.split(".")[1])


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module != "bayes_htr":
            found.add(node.module)
        elif isinstance(node, ast.ImportFrom) and node.module == "bayes_htr":
            found |= {f"bayes_htr.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name for name in found if name.startswith("bayes_htr.")}


@pytest.mark.parametrize(
    "path", [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py"], ids=str
)
def test_imports_go_down(path: Path):
    own = "bayes_htr." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for name in imports(path):
        if name.split(".")[1] in LAYERS:
            assert layer(name) <= layer(own), f"{own} imports {name}"

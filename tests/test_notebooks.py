"""The notebooks run from a fresh start, and hold what they showed when they ran last."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


def kinds_of_outputs(notebook):
    """The kinds of output of each cell of code, where one text may come in several parts."""
    kinds = [
        [(output.output_type, *sorted(output.get("data", {}))) for output in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    return [[kind for kind, _ in itertools.groupby(cell)] for cell in kinds]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "")  # which the run removes, and this puts back
    spec = importlib.util.spec_from_file_location("run_notebooks", DOCS / "run_notebooks.py")
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    shown = kinds_of_outputs(runner.executed(path, tmp_path))
    kept = kinds_of_outputs(nbformat.read(path, as_version=4))
    assert shown == kept, f"{path.name} shows other kinds of output: run `make notebooks`"
    assert any("image/png" in output for cell in shown for output in cell)


def test_there_are_two():
    assert [path.stem for path in NOTEBOOKS] == ["reading-a-spectrum", "training"]

"""The notebooks run from a fresh start, and hold what they printed when they ran last."""

from __future__ import annotations

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path, monkeypatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)  # that of notebooks draws into the page
    notebook = nbformat.read(path, as_version=4)
    kept = [{o.output_type for o in cell.outputs} for cell in code_cells(notebook)]
    client = nbclient.NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    shown = [{o.output_type for o in cell.outputs} for cell in code_cells(notebook)]
    assert shown == kept, f"{path.name} shows other kinds of output: run `make notebooks`"
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_there_are_two():
    assert [path.stem for path in NOTEBOOKS] == ["reading-a-spectrum", "training"]

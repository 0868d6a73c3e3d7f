"""Run the notebooks of this folder, and keep what they show: `make notebooks`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent / "notebooks"


def executed(path: Path, folder: Path) -> Any:
    """Run a notebook from a fresh start.

    Args:
        path: The notebook.
        folder: The working directory of its cells.

    Returns:
        The notebook with its outputs, without warnings and progress bars.
    """
    os.environ.pop("MPLBACKEND", None)  # that of notebooks draws into the page
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _is_kept(output)]
    return notebook


def _is_kept(output: Any) -> bool:
    if output.output_type == "display_data":
        return bool(output["data"].get("text/plain"))  # a bar that has ended shows nothing
    return output.get("name") != "stderr"


if __name__ == "__main__":
    for notebook_path in sorted(FOLDER.glob("*.ipynb")):
        aside = notebook_path.with_suffix(".tmp")
        nbformat.write(executed(notebook_path, FOLDER), aside)
        aside.replace(notebook_path)
        print(f"{notebook_path.name}: {notebook_path.stat().st_size / 1e3:.0f} kB")

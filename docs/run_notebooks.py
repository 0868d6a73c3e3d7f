"""Run the notebooks of this folder, and keep what they show: `make notebooks`."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent / "notebooks"


def run(path: Path) -> None:
    """Run a notebook from a fresh start, and write it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
    aside = path.with_suffix(".tmp")
    nbformat.write(notebook, aside)
    aside.replace(path)
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    os.environ.pop("MPLBACKEND", None)
    for notebook_path in sorted(FOLDER.glob("*.ipynb")):
        run(notebook_path)

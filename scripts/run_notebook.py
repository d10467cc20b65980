"""Run docs/notebooks/first-repair.ipynb and keep what it prints and draws in it.

python -m scripts.run_notebook [NOTEBOOK]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebooks" / "first-repair.ipynb"


def executed(path: Path, folder: Path) -> nbformat.NotebookNode:
    """A notebook run in a folder, with the outputs of its cells but for what they print to standard error.

    Raises:
        CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the time of day
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata.language_info = {"name": "python"}
    return notebook


@click.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path), default=NOTEBOOK)
def main(path: Path) -> None:
    """Run a notebook in an empty folder and write its outputs into it."""
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(executed(path, Path(folder)), path)


if __name__ == "__main__":
    main()

"""Runs the notebooks of docs/notebooks and saves them with their outputs.

uv run --group docs python benchmarks/site/notebooks.py [NAME...]
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"


def run(notebook: nbformat.NotebookNode, seconds: int = 600) -> nbformat.NotebookNode:
    """The notebook with the outputs of a new kernel in an empty folder; nbclient's error if a cell fails or takes longer.

    The kernel is asked through files, so that nothing listens on a port; commands in cells find the hardsight of this Python.
    """
    with tempfile.TemporaryDirectory() as place:
        through_files = Config({"AsyncKernelManager": {"transport": "ipc", "ip": os.path.join(place, ".kernel")}})
        found = os.environ.get("PATH", "")
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{found}"
        try:
            where = {"metadata": {"path": place}}
            NotebookClient(notebook, config=through_files, timeout=seconds, resources=where, coalesce_streams=True).execute()
        finally:
            os.environ["PATH"] = found
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
    nbformat.validate(notebook)
    return notebook


def main() -> None:
    for path in [FOLDER / f"{name}.ipynb" for name in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(run(nbformat.read(path, as_version=4)), path)
        print(path.relative_to(FOLDER.parents[1]))


if __name__ == "__main__":
    main()

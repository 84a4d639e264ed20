"""Runs every notebook and writes it again with its tables and figures: make notebooks."""

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent

if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(HERE.parent)  # the package of this checkout
    for path in sorted(HERE.glob("*.ipynb")):
        notebook = nbformat.read(path, 4)
        folder = {"metadata": {"path": str(HERE)}}
        NotebookClient(notebook, timeout=1800, record_timing=False, resources=folder, kernel_name="python3").execute()
        nbformat.write(notebook, path)
        print(path.name)

"""Every notebook runs from top to bottom."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_cells_run_in_order(path, monkeypatch):
    monkeypatch.chdir(ROOT / "notebooks")
    cells = json.loads(path.read_text())["cells"]
    names: dict = {}
    for cell in cells:
        assert cell["cell_type"] != "code" or not cell["outputs"], "notebooks are kept without outputs"
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), str(path), "exec"), names)

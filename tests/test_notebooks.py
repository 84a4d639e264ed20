"""Every notebook runs from top to bottom in a kernel, without any table of others, and shows its figures."""

import json
import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from clip_jax.evals.benchmark import read_suite

ROOT = Path(__file__).parents[1]


def images_of(notebook) -> list[int]:
    """Return the number of pictures that each code cell shows."""
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    return [sum("image/png" in output.get("data", {}) for output in cell) for cell in outputs]


def run(name: str, values: str, monkeypatch, **environment: str) -> Any:
    """Run a notebook in a kernel, compare its pictures with the committed ones, return an expression's value.

    Args:
      name: the notebook.
      values: an expression over what its cells leave behind, whose value JSON can hold.
      monkeypatch: the fixture.
      environment: variables to set for the kernel.
    """
    for variable in ("TABLES", "SWEEP", "RESULTS", "CHECKPOINT", "DATA", "ARMS"):
        monkeypatch.delenv(f"CLIP_JAX_{variable}", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    notebook = nbformat.read(ROOT / "notebooks" / name, 4)
    committed = images_of(notebook)
    ask = f"import json as _json\nprint(_json.dumps({values}, default=float))"
    notebook.cells.append(nbformat.v4.new_code_cell(ask))
    folder = {"metadata": {"path": str(ROOT / "notebooks")}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=folder).execute()
    assert images_of(notebook) == [*committed, 0], "run `make notebooks`"
    figures = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
               if "<Figure" in output.get("data", {}).get("text/plain", "")]  # fmt: skip
    assert all("image/png" in figure.data for figure in figures)
    return json.loads(notebook.cells[-1].outputs[-1].text), notebook


def printed(notebook) -> str:
    """Return what the cells printed."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def test_notebooks_are_all_tested():
    assert {p.name for p in (ROOT / "notebooks").glob("*.ipynb")} == {
        "scaling_curves.ipynb",
        "replicate_the_literature.ipynb",
        "modules_tour.ipynb",
        "zero_shot_transfer.ipynb",
        "objectives.ipynb",
    }


@pytest.mark.thorough
def test_notebook_scaling_curves_shows_the_committed_law(monkeypatch):
    law, _ = run("scaling_curves.ipynb", "analysis.law", monkeypatch)
    committed = json.loads((ROOT / "experiments" / "results" / "quickstart" / "law.json").read_text())
    assert law["winner"] == committed["winner"]
    assert law["rows_sha256"] == committed["rows_sha256"]
    for fit, stored in zip(law["fits"], committed["fits"], strict=True):
        assert fit["values"] == pytest.approx(stored["values"], rel=1e-4, abs=1e-9)


@pytest.mark.thorough
def test_notebook_replication_finds_the_known_law(monkeypatch):
    values = """{"tables": available,
                 "inside": [bool(TRUTH[n] in interval) for n, interval in surface.intervals.items()],
                 "params": analysis.law["allocation"]["params"], "exponent": exponent}"""
    names, _ = run("replicate_the_literature.ipynb", values, monkeypatch)
    assert names["tables"] == []
    assert len(names["inside"]) == 5
    assert sum(names["inside"]) >= 4
    assert names["params"] == pytest.approx(names["exponent"], abs=0.05)


@pytest.mark.thorough
def test_notebook_tour_learns_and_its_twins_agree(monkeypatch):
    values = """{"probe": [float(x) for x in probe], "apart": max(map(float, jax.tree.leaves(apart))),
                 "devices": mesh.size, "resumed": [float(x) for x in mesh_losses], "curve": curve, "rows": rows,
                 "walked": walked, "image": forward.image}"""
    names, _ = run("modules_tour.ipynb", values, monkeypatch)
    assert names["probe"][-1] < 0.5 * names["probe"][0]
    assert names["apart"] < 1e-5
    assert names["devices"] == 8
    assert names["resumed"] == pytest.approx(names["curve"][:5], rel=1e-4)
    background = next(r for r in names["rows"] if r["task"] == "background" and r["prompts"] != "one prompt")
    assert background["low"] > 2 * background["chance"]
    assert names["walked"] == names["image"]


@pytest.mark.thorough
def test_notebook_zero_shot_transfer_shows_the_committed_results(monkeypatch):
    values = """{"five": {"/".join(map(str, row[:2])): row[2] for row in five[["dataset", "task", "value"]].values},
                 "suite": str(SUITE), "sets": SETS}"""
    names, notebook = run("zero_shot_transfer.ipynb", values, monkeypatch)
    assert "read experiments/results/transfer/poster.csv" in printed(notebook)
    assert "not measured here: set CLIP_JAX_CHECKPOINT" in printed(notebook)
    assert names["five"]["food10/zero_shot"] == pytest.approx(0.0992, abs=1e-4)
    assert names["five"]["food/zero_shot"] == pytest.approx(0.0984, abs=1e-4)
    suite = read_suite(names["suite"], None)
    path = {entry.name: entry.path for entry in suite}
    assert set(path) == {name for pair in names["sets"].values() for name in pair}
    assert all(path[ensemble] == path[single] for ensemble, single in names["sets"].values())
    assert [e.prompts for e in suite if e.prompts] == [single for _, single in names["sets"].values()]


def test_notebook_zero_shot_transfer_skips_missing_results(monkeypatch, capsys, tmp_path):
    cells = json.loads((ROOT / "notebooks" / "zero_shot_transfer.ipynb").read_text())["cells"]
    monkeypatch.chdir(ROOT / "notebooks")
    monkeypatch.setenv("CLIP_JAX_RESULTS", str(tmp_path / "nothing.json"))
    exec("".join(next(c for c in cells if c["cell_type"] == "code")["source"]), {})
    assert [line for line in capsys.readouterr().out.splitlines() if "passed over" in line and "nothing.json" in line]


@pytest.mark.thorough
def test_notebook_objectives_agrees_with_the_results(monkeypatch):
    values = """{"gains": gains + tower_gains, "seen": seen.reset_index().to_dict("records")}"""
    names, _ = run("objectives.ipynb", values, monkeypatch)
    results = (ROOT / "experiments" / "results" / "README.md").read_text()
    gains = {row["arm"]: row for row in names["gains"]}
    assert list(gains) == ["transformer", "bag", "predict_bag", "caption", "resnet"]
    for arm, row in gains.items():
        shown = "1" if row["gain"] is None else f"{row['gain']:.2f} [{row['gain_low']:.2f}, {row['gain_high']:.2f}]"
        assert f"| `{arm}` | {row['predicted']:.3f} | {shown} |" in results
    for row in names["seen"]:
        assert f"| {row['unique_samples']:,.0f} | {row['error_mean']:.3f} | {row['val_loss_refit']:.3f} |" in results

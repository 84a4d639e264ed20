"""Every notebook runs from top to bottom, without any table of others."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(name, monkeypatch):
    """What a notebook's cells leave behind."""
    monkeypatch.chdir(ROOT / "notebooks")
    for variable in ("CLIP_JAX_TABLES", "CLIP_JAX_SWEEP"):
        monkeypatch.delenv(variable, raising=False)
    names: dict = {}
    for cell in json.loads((ROOT / "notebooks" / name).read_text())["cells"]:
        assert cell["cell_type"] != "code" or not cell["outputs"], "notebooks are kept without outputs"
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), name, "exec"), names)
    return names


def test_each_notebook_is_tested():
    assert {p.name for p in (ROOT / "notebooks").glob("*.ipynb")} == {
        "scaling_curves.ipynb",
        "replicate_the_literature.ipynb",
    }


def test_scaling_curves_shows_the_committed_law(monkeypatch):
    found = run("scaling_curves.ipynb", monkeypatch)["found"]
    committed = json.loads((ROOT / "experiments" / "results" / "quickstart" / "law.json").read_text())
    assert found.law["winner"] == committed["winner"]
    assert found.law["rows_sha256"] == committed["rows_sha256"]
    for ours, there in zip(found.law["fits"], committed["fits"], strict=True):
        assert ours["values"] == pytest.approx(there["values"], rel=1e-4, abs=1e-9)


def test_replication_finds_the_known_law_again(monkeypatch):
    names = run("replicate_the_literature.ipynb", monkeypatch)
    assert names["there"] == []
    inside = [names["TRUTH"][n] in interval for n, interval in names["surface"].intervals.items()]
    assert len(inside) == 5
    assert sum(inside) >= 4
    assert names["found"].law["allocation"]["params"] == pytest.approx(names["exponent"], abs=0.05)

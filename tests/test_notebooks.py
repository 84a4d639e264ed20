"""Every notebook runs from top to bottom, without any table of others."""

import json
from pathlib import Path

import jax
import pytest

from clip_jax.evals.benchmark import read_suite

ROOT = Path(__file__).parents[1]


def run(name, monkeypatch):
    """What a notebook's cells leave behind."""
    monkeypatch.chdir(ROOT / "notebooks")
    for variable in ("TABLES", "SWEEP", "RESULTS", "CHECKPOINT", "DATA", "ARMS"):
        monkeypatch.delenv(f"CLIP_JAX_{variable}", raising=False)
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
        "modules_tour.ipynb",
        "zero_shot_transfer.ipynb",
        "objectives.ipynb",
    }


@pytest.mark.thorough
def test_scaling_curves_shows_the_committed_law(monkeypatch):
    found = run("scaling_curves.ipynb", monkeypatch)["found"]
    committed = json.loads((ROOT / "experiments" / "results" / "quickstart" / "law.json").read_text())
    assert found.law["winner"] == committed["winner"]
    assert found.law["rows_sha256"] == committed["rows_sha256"]
    for ours, there in zip(found.law["fits"], committed["fits"], strict=True):
        assert ours["values"] == pytest.approx(there["values"], rel=1e-4, abs=1e-9)


@pytest.mark.thorough
def test_replication_finds_the_known_law_again(monkeypatch):
    names = run("replicate_the_literature.ipynb", monkeypatch)
    assert names["there"] == []
    inside = [names["TRUTH"][n] in interval for n, interval in names["surface"].intervals.items()]
    assert len(inside) == 5
    assert sum(inside) >= 4
    assert names["found"].law["allocation"]["params"] == pytest.approx(names["exponent"], abs=0.05)


@pytest.mark.thorough
def test_the_tour_learns_and_its_twins_agree(monkeypatch):
    names = run("modules_tour.ipynb", monkeypatch)
    assert names["probe"][-1] < 0.5 * names["probe"][0]
    assert max(jax.tree.leaves(names["apart"])) < 1e-5
    assert names["mesh"].size == 8
    assert names["there"] == pytest.approx(names["curve"][:5], rel=1e-4)
    background = next(r for r in names["rows"] if r["task"] == "background" and r["prompts"] != "one prompt")
    assert background["low"] > 2 * background["chance"]
    assert names["walked"] == names["forward"].image


def test_zero_shot_transfer_shows_the_committed_results(monkeypatch, capsys):
    names = run("zero_shot_transfer.ipynb", monkeypatch)
    said = capsys.readouterr().out
    assert "read experiments/results/transfer/poster.csv" in said
    assert "not measured here: set CLIP_JAX_CHECKPOINT" in said
    five = names["five"].set_index(["dataset", "task"])["value"]
    assert five["food10", "zero_shot"] == pytest.approx(0.0992, abs=1e-4)
    assert five["food", "zero_shot"] == pytest.approx(0.0984, abs=1e-4)
    suite = read_suite(str(names["SUITE"]), None)
    path = {entry.name: entry.path for entry in suite}
    assert set(path) == {name for pair in names["SETS"].values() for name in pair}
    assert all(path[ensemble] == path[single] for ensemble, single in names["SETS"].values())
    assert [e.prompts for e in suite if e.prompts] == [single for _, single in names["SETS"].values()]


def test_a_result_file_that_is_not_there_is_passed_over(monkeypatch, capsys, tmp_path):
    cells = json.loads((ROOT / "notebooks" / "zero_shot_transfer.ipynb").read_text())["cells"]
    monkeypatch.chdir(ROOT / "notebooks")
    monkeypatch.setenv("CLIP_JAX_RESULTS", str(tmp_path / "nothing.json"))
    exec("".join(next(c for c in cells if c["cell_type"] == "code")["source"]), {})
    assert [line for line in capsys.readouterr().out.splitlines() if "passed over" in line and "nothing.json" in line]


def test_the_arms_are_compared_as_the_results_say(monkeypatch):
    names = run("objectives.ipynb", monkeypatch)
    told = (ROOT / "experiments" / "results" / "README.md").read_text()
    gains = {row["arm"]: row for row in names["gains"] + names["tower_gains"]}
    assert list(gains) == ["transformer", "bag", "predict_bag", "caption", "resnet"]
    for arm, row in gains.items():
        shown = "1" if row["gain"] is None else f"{row['gain']:.2f} [{row['gain_low']:.2f}, {row['gain_high']:.2f}]"
        assert f"| `{arm}` | {row['predicted']:.3f} | {shown} |" in told
    for unique, row in names["seen"].iterrows():
        assert f"| {unique:,.0f} | {row['error_mean']:.3f} | {row['val_loss_refit']:.3f} |" in told

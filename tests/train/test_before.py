"""Runs, a sweep and exported weights that the code before `data.val_fraction` made: they are read, and go on.

``before/before.tar.gz`` holds what the code at 76f15a8 left: ``run`` and ``flat`` stopped at step 2 of 4 (``flat``
holds out its own training records), ``run-goes-on.jsonl`` the metrics of ``run`` when that code went on, ``sweep`` with
two finished cells (without their checkpoints) and one stopped at step 10 of 30, ``export`` of ``run`` at step 2.
"""

import contextlib
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from clip_jax.config import RunConfig
from clip_jax.config.io import load
from clip_jax.config.sweep import SweepConfig
from clip_jax.evals.in_training import make_evaluator
from clip_jax.inference import load_model
from clip_jax.storage.json_files import read_json, read_lines
from clip_jax.sweep.collect import collect
from clip_jax.sweep.directory import lock_sweep
from clip_jax.sweep.plan import plan_of
from clip_jax.sweep.status import status_table
from clip_jax.train.evaluate import evaluate_run
from clip_jax.train.loop import train
from clip_jax.train.run_directory import RunDirectory

from ..user_errors import raises_user_error

pytestmark = pytest.mark.thorough

STORED = Path(__file__).parents[1] / "before" / "before.tar.gz"


@pytest.fixture
def before(tmp_path, monkeypatch):
    """Return a copy of the folder made by the earlier version; data paths are relative to it."""
    with tarfile.open(STORED) as tar:
        tar.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def go_on(run_dir, config=None):
    """Train a run to its end."""
    config = load(RunConfig, config or run_dir / "config.json")
    return train(config, run_dir, make_evaluator, progress=False)


def test_train_an_old_run_goes_on_with_the_same_numbers(before):
    result = go_on(before / "run")
    assert (result["state"], result["run_id"], result["attempts"]) == ("finished", "904d386814d0", 2)
    before_and_after = [read_lines(before / name) for name in ("run/metrics.jsonl", "run-goes-on.jsonl")]
    losses = [[row["loss"] for row in rows] for rows in before_and_after]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert (len(losses[0]), result["data"]["train"]["records"], result["data"]["val"]["records"]) == (4, 16, 8)
    assert len(result["tokenizer_sha256"]) == 64


def test_train_an_old_run_keeps_the_held_out_records_it_began_with(before, caplog):
    result = go_on(before / "flat")
    assert result["data"]["train"] == result["data"]["val"]
    notes = [e["reason"] for e in read_lines(before / "flat" / "events.jsonl") if e["event"] == "data"]
    assert any("data.val_fraction" in note for note in notes)
    assert "data.val_fraction" in caplog.text
    with raises_user_error(field="data.val_paths"):  # a new run of the same config
        train(load(RunConfig, before / "flat" / "config.json"), before / "new", progress=False)
    assert not (before / "new").exists()


def test_evaluate_run_load_model_and_export_of_an_old_run_agree(before):
    rows = evaluate_run(before / "run", make_evaluator)
    assert {r["task"] for r in rows} == {"colors", "zero_shot_mean", "retrieval", "validation"}
    run, exported = load_model(str(before / "run")), load_model(str(before / "export"))
    texts = ["a red square", "a blue square, number 7"]
    np.testing.assert_allclose(run.embed_texts(texts), exported.embed_texts(texts), atol=1e-6)


def test_sweep_an_old_one_is_read_claimed_and_completed(before):
    config, root = load(SweepConfig, before / "sweep" / "sweep.json"), before / "sweep"
    cells = [cell["run_id"] for cell in read_json(root / "plan.json")["cells"]]
    assert [cell.run_id for cell in plan_of(config).cells] == cells
    with contextlib.closing(lock_sweep(config, root)):
        assert collect(root)["final"].tolist() == [True, True, False]
    assert "2 finished, 1 stopped" in status_table(root)
    stopped = root / "runs" / cells[-1]
    assert RunDirectory(stopped, load(RunConfig, stopped / "request.json")).run_id == cells[-1]
    go_on(stopped, stopped / "request.json")
    df = collect(root)
    assert df["final"].all()
    assert np.isfinite(df["error_mean"]).all()
    assert df["train_records"].dropna().tolist() == [16]  # the two that ended before have none noted
    assert json.loads((stopped / "result.json").read_text())["attempts"] == 2

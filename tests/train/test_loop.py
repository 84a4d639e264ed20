"""A run as a whole: its records, its end, and coming back after a kill."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from clip_jax.config import DataConfig, MeshConfig
from clip_jax.config.io import run_id, to_dict
from clip_jax.evals.in_training import make_evaluator
from clip_jax.storage.json_files import read_json, read_lines
from clip_jax.train.loop import Diverged, train
from clip_jax.train.timer import PARTS

from ..user_errors import raises_user_error

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:Sharding info:UserWarning")


@pytest.fixture
def finished(tiny_run, tmp_path):
    run = dataclasses.replace(tiny_run, evals=dataclasses.replace(tiny_run.evals, at_fractions=(0.5,)))
    return run, tmp_path / "whole", train(run, tmp_path / "whole", make_evaluator, progress=False)


def test_train_writes_every_record(finished):
    run, run_dir, result = finished
    assert read_json(run_dir / "result.json") == json.loads(json.dumps(result.to_json()))
    assert result["run_id"] == run_id(run)
    assert (result["state"], result["final"], result["samples_seen"], result["unique_samples"]) == (
        "finished",
        True,
        128,
        128,
    )
    assert set(result["seconds"]) == set(PARTS)
    assert 0 < result["goodput"] < 1
    assert result["mfu"] is None  # a CPU's peak is unknown, never zero
    assert 0 < result["error_mean"] < 1
    assert [r["step"] for r in read_lines(run_dir / "metrics.jsonl")] == [2, 4, 6, 8]
    assert {r["step"] for r in read_lines(run_dir / "evals.jsonl")} == {4, 8}
    assert read_json(run_dir / "status.json")["state"] == "finished"
    assert read_json(run_dir / "config.json") == to_dict(run)
    assert train(run, run_dir, progress=False).to_json() == read_json(run_dir / "result.json"), (
        "a finished run is left alone"
    )


@pytest.mark.thorough
def test_train_stopped_and_resumed_equals_an_unbroken_run(finished, tmp_path, same_params, without_times):
    run, run_dir, result = finished
    other = tmp_path / "parts"
    assert train(run, other, make_evaluator, stop_after=3, progress=False)["state"] == "stopped"
    assert train(run, other, make_evaluator, stop_after=5, progress=False)["step"] == 5
    again = train(run, other, make_evaluator, progress=False)
    same_params(run, run_dir, other)
    rows, whole = (without_times(read_lines(d / "metrics.jsonl")) for d in (other, run_dir))
    assert rows == whole
    assert again["evals"] == result["evals"]
    assert again["attempts"] == 3
    assert [(e["event"], e["step"]) for e in again["events"]] == [
        ("attempt", 0), ("stopped", 3), ("attempt", 3), ("stopped", 5), ("attempt", 5),
    ]  # fmt: skip


@pytest.mark.thorough
def test_train_resumes_on_another_mesh_with_its_id(finished, tmp_path, same_params):
    run, run_dir, result = finished
    other = tmp_path / "moved"
    train(run, other, stop_after=4, progress=False)
    moved = train(dataclasses.replace(run, mesh=MeshConfig(fsdp=4)), other, progress=False)
    assert moved["run_id"] == result["run_id"]
    assert [(e["mesh"]["data"], e["mesh"]["fsdp"]) for e in moved["events"] if e["event"] == "attempt"] == [
        (8, 1), (2, 4),
    ]  # fmt: skip
    same_params(run, run_dir, other, atol=1e-5)


@pytest.mark.thorough
def test_train_on_another_mesh_gives_the_same_losses(finished, tmp_path):
    run, run_dir, _ = finished
    other = dataclasses.replace(run, mesh=MeshConfig(fsdp=4))
    train(other, tmp_path / "mesh", progress=False)
    a, b = ([r["loss"] for r in read_lines(d / "metrics.jsonl")] for d in (run_dir, tmp_path / "mesh"))
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.thorough
def test_train_records_draws_by_path_with_worker_processes(tiny_run, pairs_dir, tmp_path, same_params):
    shutil.copytree(pairs_dir / "val", tmp_path / "others" / "val")
    data = DataConfig(source="webdataset", paths=tuple(str(pairs_dir / s / "{0..1}.tar") for s in ("train", "val")),
                      weights=(3.0, 1.0), num_workers=1, tokenizer_train_captions=40,
                      val_paths=(f"{tmp_path}/others",))  # fmt: skip
    run = dataclasses.replace(tiny_run, data=data)
    result = train(run, tmp_path / "workers", progress=False)
    assert (result["drawn_by_path"], result["unique_samples"]) == ([96, 32], 40)
    threads = dataclasses.replace(run, data=dataclasses.replace(data, num_workers=0))
    train(threads, tmp_path / "threads", progress=False)
    same_params(run, tmp_path / "workers", tmp_path / "threads")


def test_train_non_finite_loss_fails_the_run(tiny_run, tmp_path):
    run = dataclasses.replace(tiny_run, optim=dataclasses.replace(tiny_run.optim, peak_lr=1e30), steps=20)
    with raises_user_error(Diverged, field=tmp_path / "run", reason="not finite", hint="optim.peak_lr=1e+30"):
        train(run, tmp_path / "run", progress=False)
    status = read_json(tmp_path / "run" / "status.json")
    assert (status["state"], "not finite" in status["reason"]) == ("failed", True)
    assert not (tmp_path / "run" / "result.json").exists()


def test_train_impossible_config_leaves_no_directory(tiny_run, tmp_path):
    run = dataclasses.replace(tiny_run, batch_size=12)
    with raises_user_error(field="batch_size", value=12):
        train(run, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()

"""The whole suite of a run."""

import dataclasses
import json

import jax
import pytest

from clip_jax.config import MeshConfig, UserError
from clip_jax.data.loader import learn_tokenizer
from clip_jax.data.sources import open_source
from clip_jax.evals.suite import make_evaluator, mean_error, zero_shot_sets
from clip_jax.models.clip import build, init_params
from clip_jax.parallel import make_mesh


def test_every_task_is_measured_and_summed_up(tiny_run):
    mesh = make_mesh(MeshConfig())
    built = build(tiny_run.model, mesh)
    params = jax.jit(lambda: init_params(tiny_run.model, 0), out_shardings=built.shardings)()
    tokenizer = learn_tokenizer(tiny_run, open_source(tiny_run.data, "train", 32))
    held_out = open_source(tiny_run.data, "val", 32)
    rows = make_evaluator(tiny_run, built, mesh, held_out, tokenizer)(params)
    json.dumps(rows, allow_nan=False)
    tops = [r for r in rows if r["metric"] == "top1"]
    assert {r["task"] for r in tops} == {s.name for s in zero_shot_sets(tiny_run)}
    assert all(r["examples"] == 24 and r["low"] <= r["value"] <= r["high"] for r in tops)
    (summary,) = [r for r in rows if r["task"] == "zero_shot_mean"]
    assert summary["value"] == pytest.approx(1 - sum(r["value"] for r in tops) / len(tops)) == mean_error(rows)
    assert {r["metric"] for r in rows if r["task"] == "validation"} == {"loss", "loss_refit"}
    assert any(r["metric"] == "text_to_image_recall@5" for r in rows)


def test_no_tasks_no_mean():
    assert mean_error([]) is None


def test_a_missing_folder_and_a_repeated_task_are_named(tiny_run):
    def suite(*entries):
        return dataclasses.replace(tiny_run, evals=dataclasses.replace(tiny_run.evals, zero_shot=entries))

    with pytest.raises(UserError, match=r"evals.zero_shot: nowhere"):
        zero_shot_sets(suite("nowhere"))
    with pytest.raises(UserError, match="share a name"):
        zero_shot_sets(suite("scenes", "scenes"))

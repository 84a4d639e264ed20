"""The whole suite of a run."""

import dataclasses
import json
import re

import jax
import pytest

from clip_jax import flops
from clip_jax.config import MeshConfig
from clip_jax.data.open import open_source
from clip_jax.data.pipeline.loader import learn_tokenizer
from clip_jax.distributed.mesh import make_mesh
from clip_jax.evals.in_training import added_rows, make_evaluator, mean_error, zero_shot_sets
from clip_jax.models.clip import build, init_params

from ..user_errors import raises_user_error


def test_evaluator_measures_every_task_and_the_mean(tiny_run):
    mesh = make_mesh(MeshConfig())
    built = build(tiny_run.model, mesh)
    params = jax.jit(lambda: init_params(tiny_run.model, 0), out_shardings=built.shardings)()
    tokenizer = learn_tokenizer(tiny_run, open_source(tiny_run.data, "train", 32))
    held_out = open_source(tiny_run.data, "val", 32)
    evaluator = make_evaluator(tiny_run, built, mesh, held_out, tokenizer)
    rows = evaluator(params)
    per_pair = flops.flops_per_sample(tiny_run.model)
    prompts = sum(len(s.class_names) * len(s.templates) for s in zero_shot_sets(tiny_run, ("scenes",)))
    # tasks, validation pairs, retrieval: pictures of the last have a caption each
    assert evaluator.flops == (13 * 24 + 32 + 16) * per_pair.image + (prompts + 32 + 16) * per_pair.text
    json.dumps(rows, allow_nan=False)
    tops = [r for r in rows if r["metric"] == "top1"]
    assert {r["task"] for r in tops} == {s.name for s in zero_shot_sets(tiny_run, ("scenes",))}
    assert all(r["examples"] == 24 and r["low"] <= r["value"] <= r["high"] for r in tops)
    (summary,) = [r for r in rows if r["task"] == "zero_shot_mean"]
    assert (
        summary["value"]
        == pytest.approx(1 - sum(r["value"] for r in tops) / len(tops))
        == mean_error(rows, {r["task"] for r in tops})
    )
    assert {r["metric"] for r in rows if r["task"] == "validation"} == {"loss", "loss_refit"}
    assert any(r["metric"] == "text_to_image_recall@5" for r in rows)
    (picture,) = evaluator.pictures().values()
    assert picture.width > 300
    assert len(picture.getcolors(2**24)) > 100


def test_mean_error_without_tasks_is_none():
    assert mean_error([], set()) is None


def prepared(run):
    mesh = make_mesh(MeshConfig())
    source = open_source(run.data, "train", 32)
    return make_evaluator(
        run, build(run.model, mesh), mesh, open_source(run.data, "val", 32), learn_tokenizer(run, source)
    )


def test_make_evaluator_missing_folder_or_repeated_task_is_refused(tiny_run):
    def suite(**change):
        return dataclasses.replace(tiny_run, evals=dataclasses.replace(tiny_run.evals, **change))

    with raises_user_error(field="evals.zero_shot, evals.unscored_tasks", value="nowhere"):
        prepared(suite(unscored_tasks=("nowhere",)))
    with raises_user_error(field="evals.zero_shot, evals.unscored_tasks", reason="same name"):
        prepared(suite(unscored_tasks=("scenes",)))


def test_evaluator_unscored_tasks_are_reported_but_not_averaged(tiny_run, tmp_path, write_shard, jpeg):
    root = tmp_path / "reds"
    samples = {}
    for i in range(6):
        samples |= {f"{i}.jpg": jpeg((40 * i, 0, 0)), f"{i}.cls": str(i // 3).encode()}
    write_shard(root / "test" / "0.tar", samples)
    (root / "classnames.txt").write_text("dark\nbright\n")
    (root / "zeroshot_classification_templates.txt").write_text("a {c} picture\n")
    run = dataclasses.replace(tiny_run, evals=dataclasses.replace(tiny_run.evals, unscored_tasks=(str(root),)))
    params = jax.jit(lambda: init_params(run.model, 0))()
    rows = prepared(run)(params)
    tops = {r["task"]: r["value"] for r in rows if r["metric"] == "top1"}
    assert "reds" in tops
    (summary,) = [r for r in rows if r["task"] == "zero_shot_mean"]
    assert summary["value"] == pytest.approx(1 - sum(v for k, v in tops.items() if k != "reds") / (len(tops) - 1))


def test_added_rows_stand_under_the_evaluators_name():
    row = {"metric": "share", "value": 0.5, "low": 0.4, "high": 0.6}
    assert added_rows("shape", lambda model: [row], None) == [
        {"task": "shape", "examples": None, "chance": None, **row}
    ]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([0.5], "0.5"),
        ([{"metric": "share"}], "{'metric': 'share'}"),
        ([{"metric": "share", "value": 1.0, "task": "mine"}], "'task'"),
        ([{"metric": "share", "value": "high"}], "'high'"),
        ([{"metric": "share", "value": 1.0}, {"metric": "share", "value": 2.0}], "'share' twice"),
    ],
)
def test_added_rows_of_another_form_are_refused(rows, reason):
    with raises_user_error(field=re.compile("evaluators"), reason=reason):
        added_rows("shape", lambda model: rows, None)


def test_added_evaluator_of_a_task_in_use_is_refused(tiny_run):
    mesh = make_mesh(MeshConfig())
    source = open_source(tiny_run.data, "train", 32)
    arguments = (build(tiny_run.model, mesh), mesh, open_source(tiny_run.data, "val", 32))
    for evaluators in ({"retrieval": print}, {"shape": 1}):
        with raises_user_error(field="evaluators"):
            make_evaluator(tiny_run, *arguments, learn_tokenizer(tiny_run, source), evaluators)

"""The public function does what the command does."""

import dataclasses

import numpy as np
import pytest

import clip_jax
from clip_jax.config import InitConfig
from clip_jax.distributed.mesh import make_mesh
from clip_jax.losses import dense_contrastive_loss
from clip_jax.models.clip import build
from clip_jax.pretrained.mapping import flatten
from clip_jax.storage.json_files import read_lines
from clip_jax.train.checkpoint import load_params

from .user_errors import raises_user_error

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:Sharding info:UserWarning")


@pytest.mark.thorough
def test_a_run_from_python_is_measured_and_starts_from_its_source(tiny_run, tmp_path):
    first = clip_jax.train_run(tiny_run, tmp_path / "first", progress=False)
    assert first["state"] == "finished"
    assert 0 <= first["error_mean"] <= 1
    assert {r["task"] for r in first["evals"]} >= {"zero_shot_mean", "retrieval", "validation"}
    locked = dataclasses.replace(
        tiny_run, init_from=InitConfig(str(tmp_path / "first"), towers="image", freeze_tower="image")
    )
    clip_jax.train_run(locked, tmp_path / "second", progress=False)
    built = build(tiny_run.model, make_mesh(tiny_run.mesh))
    before, after = (flatten(load_params(tmp_path / name, built)[1]) for name in ("first", "second"))
    for name in (n for n in before if n.startswith("image")):
        np.testing.assert_array_equal(after[name], before[name])
    with raises_user_error(field="no/such/model", reason="no such file"):
        clip_jax.train_run(
            dataclasses.replace(tiny_run, init_from=InitConfig("no/such/model")), tmp_path / "third", progress=False
        )


def tripled(image, text, scale, bias):
    return 3.0 * dense_contrastive_loss(image, text, scale)


def angles(model):
    """Return the mean cosine of two colors' names, and of a picture with itself turned."""
    texts = model.embed_texts(["red", "blue"])
    images = model.embed_pixels(np.eye(32, dtype=np.uint8)[None, :, :, None].repeat(3, -1) * 255)
    yield {"metric": "texts", "value": float(texts[0] @ texts[1]), "examples": 2, "chance": 0.0}
    yield {"metric": "length", "value": np.float32(np.linalg.norm(images[0]))}


@pytest.mark.thorough
def test_loss_evaluators_and_callbacks_of_the_caller_are_used(tiny_run, tmp_path):
    run = dataclasses.replace(
        tiny_run, evals=dataclasses.replace(tiny_run.evals, zero_shot=(), at_fractions=(0.5,)), log_every=1, steps=4
    )
    calls = []
    added = {"loss": tripled, "evaluators": {"angles": angles}}
    arguments = (run, tmp_path / "run")
    result = clip_jax.train_run(*arguments, **added, callbacks=[lambda *call: calls.append(call)], progress=False)
    plain = clip_jax.train_run(run, tmp_path / "plain", progress=False)
    losses = [row["loss"] for row in read_lines(tmp_path / "run" / "metrics.jsonl")]
    first = read_lines(tmp_path / "plain" / "metrics.jsonl")[0]["loss"]
    assert losses[0] == pytest.approx(3 * first, rel=1e-5), "before the first update both models are equal"
    assert [values["train/loss"] for _, values in calls if "train/loss" in values] == losses
    assert [step for step, _ in calls] == [1, 2, 2, 3, 4, 4], "every logged step, and two evaluations"
    rows = [row for row in read_lines(tmp_path / "run" / "evals.jsonl") if row["task"] == "angles"]
    assert [row["step"] for row in rows] == [2, 2, 4, 4]
    (texts, length) = [row for row in result["evals"] if row["task"] == "angles"]
    assert texts["value"] == rows[2]["value"] == calls[-1][1]["eval/angles/texts"]
    assert -1 <= texts["value"] < 1
    assert texts["examples"] == 2
    assert length["value"] == pytest.approx(1)
    assert length["examples"] is None
    assert len(result["evals"]) == len(plain["evals"]) + 2
    assert result["extensions"] == {"loss": f"{__name__}.tripled", "evaluators": ["angles"]}
    assert clip_jax.train_run(*arguments, **added, progress=False)["evals"] == result["evals"], "it is finished"
    for change, field in (({"loss": None}, "loss"), ({"evaluators": {}}, "evaluators")):
        with raises_user_error(field=field):
            clip_jax.train_run(*arguments, **(added | change), progress=False)
    with raises_user_error(field="loss"):
        clip_jax.train_run(run, tmp_path / "plain", loss=tripled, progress=False)

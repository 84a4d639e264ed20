"""The public function does what the command does."""

import dataclasses

import numpy as np
import pytest

import clip_jax
from clip_jax.config import InitConfig
from clip_jax.distributed.mesh import make_mesh
from clip_jax.errors import UserError
from clip_jax.models.clip import build
from clip_jax.pretrained.mapping import flatten
from clip_jax.train.checkpoint import load_params

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
    with pytest.raises(UserError):
        clip_jax.train_run(
            dataclasses.replace(tiny_run, init_from=InitConfig("no/such/model")), tmp_path / "third", progress=False
        )

"""Whole runs with every optimizer: meshes, microbatches, interruptions, branches, and which weights are evaluated."""

import dataclasses

import jax
import numpy as np
import pytest

from clip_jax.config import MeshConfig
from clip_jax.config.trunk import trunk_config
from clip_jax.distributed.mesh import make_mesh
from clip_jax.evals.in_training import make_evaluator
from clip_jax.models.clip import build
from clip_jax.optim.averaging import averaged_weights, second_weights
from clip_jax.optim.optimizer import make_optimizer
from clip_jax.train.branch import Branch
from clip_jax.train.checkpoint import load_params, load_state
from clip_jax.train.evaluate import evaluate_run
from clip_jax.train.loop import train
from clip_jax.train.state import abstract_state, init_state
from clip_jax.train.step import make_train_step, put_batch

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:Sharding info:UserWarning")

FREE = {"optimizer": "schedule_free", "schedule": "wsd", "lr_decay_fraction": 0.0}
OPTIMIZERS = {
    "muon": {"optimizer": "muon", "ema_decay": 0.9, "layer_decay": 0.9},
    "lion": {"optimizer": "lion", "ema_decay": 0.5, "state_dtype": "bfloat16"},
    "adafactor": {"optimizer": "adafactor"},
    "schedule_free": FREE,
}


def with_optimizer(run, **fields):
    return dataclasses.replace(run, optim=dataclasses.replace(run.optim, **fields))


def after_steps(run, mesh_config, devices, count=2):
    """Return the parameters to evaluate after some steps."""
    mesh = make_mesh(mesh_config, jax.devices()[:devices])
    built = build(run.model, mesh)
    optimizer = make_optimizer(run.optim, run.steps, run.model, axes=built.axes)
    state, step = init_state(run, built, optimizer, mesh), make_train_step(run, built, optimizer, mesh)
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 390, (run.batch_size, run.model.text.context_length)).astype(np.int32)
    batch = {"images": rng.integers(0, 255, (run.batch_size, 32, 32, 3), np.uint8), "tokens": tokens}
    for _ in range(count):
        state, _ = step(state, put_batch(batch, mesh))
    params = averaged_weights(run.optim, state.params, second_weights(state.opt_state))
    for tower in ("image", "text"):
        bias = np.array(params[tower]["blocks"]["blocks"]["qkv"]["bias"])
        bias[:, 16:32] = 0  # of keys: their gradients are rounding, whose sign Lion takes
        params[tower]["blocks"]["blocks"]["qkv"]["bias"] = bias
    return params


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["muon", "lion", "adafactor", "schedule_free"])
def test_every_optimizer_trains_alike_on_a_mesh_and_in_microbatches(tiny_run, name):
    with jax.enable_x64(True):
        model = dataclasses.replace(tiny_run.model, compute_dtype="float64", param_dtype="float64")
        exact = dataclasses.replace(tiny_run, model=model)
        run = with_optimizer(exact, **{**OPTIMIZERS[name], "state_dtype": "float32"})
        whole = after_steps(run, MeshConfig(), 1)
        pieces = after_steps(dataclasses.replace(run, microbatch_size=8), MeshConfig(data=2, fsdp=2, tensor=2), 8)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-7), whole, pieces)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["muon", "lion", "schedule_free"])
def test_every_optimizer_resumes_with_the_bits_of_an_unbroken_run(tiny_run, tmp_path, same_params, name):
    run = with_optimizer(tiny_run, **OPTIMIZERS[name])
    whole = train(run, tmp_path / "whole", make_evaluator, progress=False)
    train(run, tmp_path / "parts", make_evaluator, stop_after=5, progress=False)
    parts = train(run, tmp_path / "parts", make_evaluator, progress=False)
    same_params(run, tmp_path / "whole", tmp_path / "parts")
    assert parts["evals"] == whole["evals"]
    rows = evaluate_run(tmp_path / "whole", make_evaluator)
    assert {(r["task"], r["metric"]): r["value"] for r in rows} == pytest.approx(
        {(r["task"], r["metric"]): r["value"] for r in whole["evals"]}, rel=1e-5
    )
    mesh = make_mesh(run.mesh)
    built = build(run.model, mesh)
    optimizer = make_optimizer(run.optim, run.steps, run.model, axes=built.axes)
    state = load_state(tmp_path / "whole", run.steps, abstract_state(built, optimizer, mesh))
    _, evaluated = load_params(tmp_path / "whole", built)
    trained = [np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (state.params, evaluated)), strict=True)]
    assert any(trained) != run.optim.averages


@pytest.mark.thorough
def test_branch_takes_the_average_of_its_trunk(tiny_run, tmp_path, same_params):
    run = with_optimizer(tiny_run, **OPTIMIZERS["muon"], schedule="wsd", lr_decay_fraction=0.25)
    train(trunk_config(run), tmp_path / "trunk", stop_after=4, progress=False, keep=(4,))
    train(run, tmp_path / "branch", progress=False, branch=Branch(tmp_path / "trunk", 4))
    train(run, tmp_path / "scratch", progress=False)
    same_params(run, tmp_path / "branch", tmp_path / "scratch")

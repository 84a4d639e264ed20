"""The step: sharded equals single, compiled once, and it learns."""

import dataclasses

import jax
import numpy as np
import pytest

from clip_jax.config import MeshConfig
from clip_jax.models.clip import build
from clip_jax.optim import make_optimizer
from clip_jax.parallel import make_mesh
from clip_jax.train.state import init_state
from clip_jax.train.step import make_loss, make_train_step, put_batch


def batch_of(run, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 390, (run.batch_size, run.model.text.context_length)).astype(np.int32)
    tokens[:, -1] = 399
    return {"images": rng.integers(0, 255, (run.batch_size, 32, 32, 3), np.uint8), "tokens": tokens}


def parts(run, config, devices=None):
    mesh = make_mesh(config, devices)
    built = build(run.model, mesh)
    optimizer = make_optimizer(run.optim, run.steps)
    return mesh, built, optimizer, init_state(run, built, optimizer, mesh)


@pytest.mark.parametrize("config", [MeshConfig(), MeshConfig(fsdp=4), MeshConfig(data=1, fsdp=8)])
def test_loss_and_gradients_on_eight_devices_equal_one(tiny_run, config):
    found = []
    for mesh_config, devices in ((config, None), (MeshConfig(), jax.devices()[:1])):
        mesh, built, _, state = parts(tiny_run, mesh_config, devices)
        loss = jax.jit(jax.value_and_grad(make_loss(built, mesh), has_aux=True))
        (value, _), grads = loss(state.params, put_batch(batch_of(tiny_run), mesh), jax.random.key(0))
        found.append((value, grads))
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found[0][1], found[1][1])


def test_it_compiles_once_and_learns_one_batch(tiny_run):
    run = dataclasses.replace(tiny_run, steps=40)
    mesh, built, optimizer, state = parts(run, MeshConfig(fsdp=2))
    step = make_train_step(run, built, optimizer, mesh)
    losses = []
    for _ in range(30):
        state, metrics = step(state, put_batch(batch_of(run), mesh))
        losses.append(float(metrics["loss"]))
    assert step._cache_size() == 1
    assert losses[-1] < losses[0] / 2
    assert int(state.step) == 30
    assert all(np.asarray(v).shape == () for v in metrics.values())


def test_runs_that_differ_in_length_and_rate_share_one_program(tiny_run):
    texts = []
    for steps, rate in ((8, 1e-3), (800, 7e-3)):
        run = dataclasses.replace(tiny_run, steps=steps, optim=dataclasses.replace(tiny_run.optim, peak_lr=rate))
        mesh, built, optimizer, state = parts(run, MeshConfig())
        lowered = make_train_step(run, built, optimizer, mesh).lower(state, put_batch(batch_of(run), mesh))
        texts.append(lowered.as_text())
    assert texts[0] == texts[1]


def test_bfloat16_compute_keeps_float32_parameters(tiny_run):
    run = dataclasses.replace(tiny_run, model=dataclasses.replace(tiny_run.model, compute_dtype="bfloat16"))
    mesh, built, optimizer, state = parts(run, MeshConfig())
    state, metrics = make_train_step(run, built, optimizer, mesh)(state, put_batch(batch_of(run), mesh))
    assert {str(x.dtype) for x in jax.tree.leaves(state.params)} == {"float32"}
    assert np.isfinite(float(metrics["loss"]))

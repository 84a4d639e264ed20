"""The modified ResNet on many devices, and its running statistics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clip_jax.config import ImageTowerConfig, MeshConfig
from clip_jax.distributed.mesh import make_mesh
from clip_jax.models.clip import batch_statistics, build, init_params, with_statistics
from clip_jax.models.resnet import BatchNorm
from clip_jax.optim.optimizer import make_optimizer
from clip_jax.pretrained.mapping import flatten
from clip_jax.train.state import init_state
from clip_jax.train.step import make_train_step, put_batch

RESNET = ImageTowerConfig(width=16, depth=4, heads=8, patch_size=32, image_size=64, stages=(1, 1, 1, 1))


@pytest.fixture(scope="module")
def run(tiny_run):
    return dataclasses.replace(tiny_run, model=dataclasses.replace(tiny_run.model, image=RESNET))


def batch_of(run):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (run.batch_size, 64, 64, 3), np.uint8)
    return {"images": images, "tokens": rng.integers(1, 399, (run.batch_size, 16)).astype(np.int32)}


def stepped(run, mesh_config, devices=None):
    mesh = make_mesh(mesh_config, devices)
    built = build(run.model, mesh)
    optimizer = make_optimizer(run.optim, run.steps)
    state = init_state(run, built, optimizer, mesh)
    state, metrics = make_train_step(run, built, optimizer, mesh)(state, put_batch(batch_of(run), mesh))
    return flatten(jax.device_get(state.params)), float(metrics["loss"])


@pytest.mark.thorough
@pytest.mark.parametrize("config", [MeshConfig(), MeshConfig(data=2, fsdp=4)])
def test_batch_norm_sees_the_whole_batch_on_any_mesh(run, config):
    one, loss = stepped(run, MeshConfig(), jax.devices()[:1])
    many, other = stepped(run, config)
    np.testing.assert_allclose(other, loss, rtol=1e-5)
    for name in one:
        if name.endswith(("/mean", "/var")):
            np.testing.assert_allclose(many[name], one[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.thorough
def test_training_updates_running_statistics_outside_the_optimizer(run):
    fresh = flatten(init_params(run.model, run.seed))
    after, _ = stepped(run, MeshConfig())
    assert not np.allclose(after["image/bn1/mean"], fresh["image/bn1/mean"])
    assert np.abs(after["image/bn1/var"] - 1).max() < 1  # a tenth of the way, not an optimiser's step of its own


@pytest.mark.thorough
def test_resnet_with_remat_is_unchanged(run):
    again = dataclasses.replace(run, model=dataclasses.replace(run.model, remat=True))
    plain, loss = stepped(run, MeshConfig())
    remat, other = stepped(again, MeshConfig())
    assert other == pytest.approx(loss, rel=1e-6)
    for name in plain:
        np.testing.assert_allclose(remat[name], plain[name], atol=1e-4, err_msg=name)


def test_batch_norm_equals_its_formula():
    norm = BatchNorm(3, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (4, 2, 2, 3)) * 3 + 1
    y = norm(x, True)
    np.testing.assert_allclose(np.asarray(y).mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], 0.1 * np.asarray(x).mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * np.asarray(x).var(axis=(0, 1, 2), ddof=1), rtol=1e-5)
    frozen = norm(x, False)
    assert not np.allclose(frozen, y)


def test_batch_statistics_without_batch_norm_are_empty(tiny_run):
    from clip_jax.models.clip import CLIP

    model = CLIP(tiny_run.model, rngs=nnx.Rngs(0))
    assert not jax.tree.leaves(batch_statistics(model))
    params = init_params(tiny_run.model, 0)
    assert with_statistics(params, batch_statistics(model)) is params

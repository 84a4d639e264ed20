"""The sharded loss against the dense one, and the dense one against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clip_jax.config import MeshConfig
from clip_jax.losses.contrastive import dense_contrastive_loss, sharded_contrastive_loss
from clip_jax.models.clip import normalise_features
from clip_jax.parallel import batch_sharding, make_mesh


def embeddings(n=32, e=12):
    keys = jax.random.split(jax.random.key(0), 2)
    return tuple(normalise_features(jax.random.normal(k, (n, e))) for k in keys)


def test_dense_is_the_papers_figure_3():
    image, text = embeddings()
    logits = 10.0 * image @ text.T
    labels = jnp.arange(32)
    both = [optax.softmax_cross_entropy_with_integer_labels(x, labels).mean() for x in (logits, logits.T)]
    np.testing.assert_allclose(dense_contrastive_loss(image, text, jnp.float32(10)), sum(both) / 2, rtol=1e-6)


@pytest.mark.parametrize("mesh", [MeshConfig(), MeshConfig(fsdp=4), MeshConfig(data=1, fsdp=8)])
def test_sharded_equals_dense_in_value_and_gradient(mesh):
    mesh = make_mesh(mesh)
    image, text = embeddings()
    args = (image, text, jnp.float32(14.3))
    spread = tuple(jax.device_put(x, batch_sharding(mesh)) for x in args[:2])
    dense = jax.value_and_grad(dense_contrastive_loss, (0, 1, 2))(*args)
    ring = jax.jit(jax.value_and_grad(lambda *a: sharded_contrastive_loss(*a, mesh=mesh), (0, 1, 2)))
    sharded = ring(*spread, args[2])
    np.testing.assert_allclose(sharded[0], dense[0], rtol=1e-6)
    for ours, theirs in zip(sharded[1], dense[1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_negatives_of_other_devices_count():
    mesh = make_mesh(MeshConfig())
    image, text = embeddings()
    whole = sharded_contrastive_loss(image, text, jnp.float32(10), mesh=mesh)
    parts = [dense_contrastive_loss(image[i : i + 4], text[i : i + 4], jnp.float32(10)) for i in range(0, 32, 4)]
    assert float(whole) > float(np.mean(parts)) + 0.5


def test_no_device_forms_the_whole_matrix():
    mesh = make_mesh(MeshConfig())
    image, text = embeddings()
    jaxpr = str(
        jax.make_jaxpr(lambda a, b, s: sharded_contrastive_loss(a, b, s, mesh=mesh))(image, text, jnp.float32(1))
    )
    assert "f32[32,32]" not in jaxpr
    assert "f32[4,32]" in jaxpr

"""The ring against its plain twin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax.config import MeshConfig
from clip_jax.losses.sigmoid import dense_sigmoid_loss, sharded_sigmoid_loss
from clip_jax.models.clip import normalise_features
from clip_jax.parallel import batch_sharding, make_mesh


@pytest.mark.parametrize("config", [MeshConfig(), MeshConfig(fsdp=4), MeshConfig(data=1, fsdp=8)])
def test_value_and_gradients_equal_the_dense_loss(config):
    mesh = make_mesh(config)
    keys = jax.random.split(jax.random.key(0))
    image, text = (normalise_features(jax.random.normal(k, (32, 12))) for k in keys)
    scale, bias = jnp.asarray(7.0), jnp.asarray(-3.0)
    dense = jax.value_and_grad(dense_sigmoid_loss, argnums=(0, 1, 2, 3))(image, text, scale, bias)
    image, text = (jax.device_put(x, batch_sharding(mesh)) for x in (image, text))
    ring = jax.jit(
        jax.value_and_grad(lambda *a: sharded_sigmoid_loss(*a, mesh=mesh), argnums=(0, 1, 2, 3))
    )(image, text, scale, bias)  # fmt: skip
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ring, dense)


def test_one_device_takes_the_dense_path():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    image, text = jnp.eye(4), jnp.eye(4)
    found = sharded_sigmoid_loss(image, text, jnp.asarray(2.0), jnp.asarray(-1.0), mesh=mesh)
    np.testing.assert_allclose(found, dense_sigmoid_loss(image, text, jnp.asarray(2.0), jnp.asarray(-1.0)))

"""The image tower."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clip_jax.config.presets import preset
from clip_jax.models.clip import CLIP


@pytest.fixture(scope="module")
def tower():
    return CLIP(preset("debug"), rngs=nnx.Rngs(0)).image


def test_vit_features_have_one_row_per_image(tower):
    assert tower(jnp.zeros((3, 32, 32, 3))).shape == (3, 16)


def test_vit_gradient_reaches_every_pixel(tower):
    grad = jax.grad(lambda x: tower(x).sum())(jax.random.normal(jax.random.key(0), (1, 32, 32, 3)))
    assert (np.abs(grad) > 0).all()


def test_vit_images_are_independent(tower):
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    np.testing.assert_allclose(tower(x)[:1], tower(x[:1]), rtol=1e-5, atol=1e-6)


def test_vit_wrong_image_size_is_refused(tower):
    with pytest.raises(ValueError, match="32, 32, 3"):
        tower(jnp.zeros((1, 16, 16, 3)))

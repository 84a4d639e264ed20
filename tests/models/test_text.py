"""The text tower."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clip_jax.models.clip import CLIP
from clip_jax.presets import preset


@pytest.fixture(scope="module")
def tower():
    return CLIP(preset("debug"), rngs=nnx.Rngs(0)).text


def row(*ids):
    return jnp.array([[510, *ids, 511] + [0] * (22 - len(ids))], jnp.int32)


def test_what_follows_the_end_does_not_matter(tower):
    clean = row(5, 6, 7)
    dirty = clean.at[0, 5:].set(9)
    np.testing.assert_allclose(tower(clean), tower(dirty), rtol=1e-6)


def test_words_and_their_order_matter(tower):
    assert not np.allclose(tower(row(5, 6)), tower(row(6, 5)), atol=1e-4)
    assert not np.allclose(tower(row(5)), tower(row(8)), atol=1e-4)


def test_wrong_length_is_named(tower):
    with pytest.raises(ValueError, match=r"expected \[B, 24\]"):
        tower(jnp.zeros((1, 7), jnp.int32))

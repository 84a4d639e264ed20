"""The text tower."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clip_jax.config.presets import preset
from clip_jax.models.clip import CLIP, make_model


@pytest.fixture(scope="module")
def tower():
    return CLIP(preset("debug"), rngs=nnx.Rngs(0)).text


def row(*ids):
    return jnp.array([[510, *ids, 511] + [0] * (22 - len(ids))], jnp.int32)


def test_text_tower_ignores_tokens_after_the_end(tower):
    clean = row(5, 6, 7)
    dirty = clean.at[0, 5:].set(9)
    np.testing.assert_allclose(tower(clean), tower(dirty), rtol=1e-6)


def test_text_tower_depends_on_words_and_order(tower):
    assert not np.allclose(tower(row(5, 6)), tower(row(6, 5)), atol=1e-4)
    assert not np.allclose(tower(row(5)), tower(row(8)), atol=1e-4)


def test_text_tower_wrong_length_is_refused(tower):
    with pytest.raises(ValueError, match=r"expected \[B, 24\]"):
        tower(jnp.zeros((1, 7), jnp.int32))


@pytest.fixture(scope="module")
def bag(run_of):
    return make_model(run_of("contrastive", "bag_of_words").model, rngs=nnx.Rngs(0)).text


def bag_row(*ids):
    return jnp.array([[398, *ids, 399] + [0] * (14 - len(ids))], jnp.int32)


def test_bag_of_words_tower_ignores_order_and_repetition(bag):
    same = bag(bag_row(5, 6, 7))
    for other in (bag_row(7, 5, 6), bag_row(5, 6, 5, 7, 7), bag_row(6, 7, 5, 398, 0, 399)):
        np.testing.assert_allclose(bag(other), same, rtol=1e-5)
    assert not np.allclose(bag(bag_row(5, 6)), same, rtol=1e-2)


def test_bag_of_words_tower_sums_the_word_embeddings(bag):
    want = (bag.token[...][5] + bag.token[...][6]) @ bag.projection[...]
    np.testing.assert_allclose(bag(bag_row(5, 6))[0], want, rtol=1e-5)
    assert not np.asarray(bag(bag_row())).any(), "padding, start and end of text are no words"

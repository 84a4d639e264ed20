"""The predictive models: what they see, what they are asked, and how they run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clip_jax.errors import ConfigError
from clip_jax.models.clip import CLIP, make_model
from clip_jax.models.predictive import Predictive

from ..user_errors import raises_user_error

START, END = 398, 399
TOKENS = np.array([[START, 7, 9, 7, 3, END] + [0] * 10, [START, 5, END] + [0] * 13], np.int32)
IMAGES = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def caption(run_of):
    return make_model(run_of("caption").model, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def bag(run_of):
    return make_model(run_of("bag_of_words").model, rngs=nnx.Rngs(0))


@pytest.mark.thorough
def test_caption_states_are_causal(caption):
    prefix = caption.context(IMAGES[:1])
    states = jax.jit(caption.text.states)
    for place in (0, 3):
        changed = TOKENS[:1].copy()
        changed[0, place] = 11
        moved = np.abs(np.asarray(states(prefix, changed) - states(prefix, TOKENS[:1]))[0]).max(axis=1) > 1e-6
        assert not moved[:place].any()
        assert moved[place:].all()
        # a plain sum would hide what the last norm's mean cancels
        reached = jax.grad(lambda p, row=place: states(p, TOKENS[:1])[0, row] @ jnp.arange(16.0))(prefix)
        assert (np.abs(np.asarray(reached[0])).max(axis=1) > 0).all(), "every prefix token is looked at"


def test_context_has_the_prefix_tokens(caption, run_of):
    assert caption.context(IMAGES).shape == (2, 4, 16)
    assert make_model(run_of("caption", prefix_tokens=2).model, rngs=nnx.Rngs(0)).context(IMAGES).shape == (2, 2, 16)
    assert not np.allclose(caption.logits(IMAGES, TOKENS)[0, 0], caption.logits(IMAGES[::-1], TOKENS)[0, 0], atol=1e-4)


def test_caption_labels_are_the_tokens_after_the_first(caption):
    prediction = caption(IMAGES, TOKENS)
    np.testing.assert_array_equal(prediction.labels[..., 0], TOKENS[:, 1:])
    np.testing.assert_array_equal(prediction.weights[..., 0], (TOKENS[:, 1:] > 0).astype(np.float32))
    assert prediction.weights.sum() == 5 + 2
    kernel, bias = prediction.head
    np.testing.assert_array_equal(kernel, caption.text.token[...].T)
    assert bias is None
    assert caption.logits(IMAGES, TOKENS).shape == (2, 15, 400)


def test_caption_states_of_a_cut_text_are_unchanged(caption):
    prefix = caption.context(IMAGES)
    whole, cut = caption.text.states(prefix, TOKENS), caption.text.states(prefix, TOKENS[:, :6])
    np.testing.assert_allclose(cut, whole[:, :5], atol=1e-6)
    with pytest.raises(ValueError, match="at most 16 a text"):
        caption.text.states(prefix, np.zeros((2, 17), np.int32))


def test_bag_of_words_target_is_uniform_over_distinct_words(bag):
    prediction = bag(IMAGES, TOKENS)
    spread = np.zeros((2, 400))
    for row, label, weight in zip(spread, prediction.labels[:, 0], prediction.weights[:, 0], strict=True):
        np.add.at(row, np.asarray(label), np.asarray(weight))
    assert dict(enumerate(spread[0][spread[0] > 0])) == pytest.approx({0: 1 / 3, 1: 1 / 3, 2: 1 / 3})
    assert set(np.flatnonzero(spread[0])) == {3, 7, 9}
    assert spread[1, 5] == 1
    assert bag.logits(IMAGES, TOKENS).shape == (2, 1, 400)
    none = bag(IMAGES, np.array([[START, END] + [0] * 14] * 2, np.int32))
    assert not np.asarray(none.weights).any(), "a caption without words asks nothing"


@pytest.mark.parametrize("change", [{"scan_layers": True}, {"remat": True}])
def test_predictive_logits_are_independent_of_execution(run_of, caption, change):
    other = make_model(run_of("caption", **change).model, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(other.logits(IMAGES, TOKENS), caption.logits(IMAGES, TOKENS), atol=1e-5)


@pytest.mark.parametrize("objective", ["caption", "bag_of_words"])
def test_predictive_half_precision_computes_in_that_dtype(run_of, objective):
    model = make_model(run_of(objective, compute_dtype="bfloat16").model, rngs=nnx.Rngs(0))
    prediction = model(IMAGES, TOKENS)
    assert prediction.states.dtype == prediction.head[0].dtype == jnp.bfloat16
    assert prediction.weights.dtype == jnp.float32


def test_predictive_image_tower_has_the_parameters_of_clip(run_of, bag):
    contrastive = CLIP(run_of("contrastive").model, rngs=nnx.Rngs(0))
    shapes, other = (jax.tree.map(jnp.shape, nnx.as_pure(nnx.state(m.image))) for m in (bag, contrastive))
    assert shapes == other
    assert bag.encode_image(IMAGES).shape == (2, 16)
    assert bag.image.penultimate(IMAGES).shape == (2, 16)


def test_model_classes_refuse_the_other_objective(run_of):
    with raises_user_error(ConfigError, field="model.objective", value="caption"):
        CLIP(run_of("caption").model, rngs=nnx.Rngs(0))
    with raises_user_error(ConfigError, field="model.objective", value="contrastive"):
        Predictive(run_of("contrastive").model, rngs=nnx.Rngs(0))

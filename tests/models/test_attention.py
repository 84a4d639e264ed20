"""Options of the towers that the golden numbers do not reach."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clip_jax.config import DecoderConfig, ImageTowerConfig, MeshConfig, ModelConfig, RunConfig, TextTowerConfig
from clip_jax.config.presets import preset
from clip_jax.distributed.mesh import make_mesh
from clip_jax.errors import ConfigError
from clip_jax.models.clip import CLIP, build
from clip_jax.models.layers import attend
from clip_jax.train.step import make_loss

from ..user_errors import raises_user_error

BASE = preset("debug")
IMAGES = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
TOKENS = jnp.asarray(np.random.default_rng(0).integers(1, 500, (2, 24)), jnp.int32)


def with_image(**change):
    return dataclasses.replace(BASE, image=dataclasses.replace(BASE.image, **change))


COCA = dataclasses.replace(
    with_image(pool="attentional", pool_heads=2, pool_queries=5),
    text=dataclasses.replace(BASE.text, pool="cls"),
    decoder=DecoderConfig(depth=2, width=16, heads=2),
)


@pytest.mark.thorough
@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("remat", [True, False])
def test_coca_value_and_gradients_are_independent_of_scan_and_remat(scan, remat):
    def value(config):
        graphdef, state = nnx.split(CLIP(config, rngs=nnx.Rngs(0)))

        def loss(params):
            out = nnx.merge(graphdef, params)(IMAGES, TOKENS)
            return jnp.sum(jnp.sin(out.captions)) + jnp.sum(jnp.sin(out.image + out.text))

        return jax.jit(jax.value_and_grad(loss))(nnx.as_pure(state))

    plain, grads = value(dataclasses.replace(COCA, scan_layers=False))
    other, actual = value(dataclasses.replace(COCA, scan_layers=scan, remat=remat))
    np.testing.assert_allclose(other, plain, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), actual, grads)


@pytest.mark.thorough
def test_coca_captions_are_causal():
    model = CLIP(COCA, rngs=nnx.Rngs(0))
    later = TOKENS.at[:, 10:].set(7)
    a, b = (model(IMAGES, tokens).captions for tokens in (TOKENS, later))
    np.testing.assert_allclose(a[:, :10], b[:, :10], atol=1e-5)
    assert not np.allclose(a[:, 10:], b[:, 10:], atol=1e-3)


def test_patch_dropout_is_random_in_training_and_off_elsewhere():
    image = dataclasses.replace(BASE.image, patch_size=8, patch_dropout=0.5)
    model = CLIP(dataclasses.replace(BASE, image=image), rngs=nnx.Rngs(0))
    one, two = (
        model.encode_image(IMAGES, train=True, rng=jax.random.split(jax.random.key(i), len(IMAGES))) for i in (1, 2)
    )
    assert not np.allclose(one, two)
    np.testing.assert_array_equal(model.encode_image(IMAGES), model.encode_image(IMAGES))
    with pytest.raises(ValueError, match="rng="):
        model.encode_image(IMAGES, train=True)


def test_training_with_patch_dropout_is_a_function_of_seed_and_step():
    config = with_image(patch_size=8, patch_dropout=0.5)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    built = build(config, mesh)
    loss = make_loss(RunConfig(model=config), built, mesh)
    params = nnx.as_pure(nnx.state(CLIP(config, rngs=nnx.Rngs(0))))
    batch = {"images": (IMAGES * 40 + 120).astype(jnp.uint8), "tokens": TOKENS}
    values = [float(loss(params, batch, jax.random.key(s))[0]) for s in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize("name", ["avg", "map"])
def test_image_pooling_variants_give_the_right_shape(name):
    config = with_image(pool=name, class_token=name == "avg", layer_scale=0.1)
    assert CLIP(config, rngs=nnx.Rngs(0)).encode_image(IMAGES).shape == (2, 16)


def test_attention_in_float64_equals_jax_nn():
    with jax.enable_x64(True):
        q, k, v = (jnp.asarray(np.random.default_rng(i).standard_normal((2, 5, 2, 4))) for i in range(3))
        mask = jnp.asarray(np.random.default_rng(4).random((2, 1, 5, 5)) < 0.8) | jnp.eye(5, dtype=bool)[None, None]
        for causal in (True, False):
            actual = attend(q, k, v, mask, causal)
            reference = jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=causal)
            np.testing.assert_allclose(actual, reference, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "attributes"),
    [
        (lambda: ImageTowerConfig(stages=(1, 1, 1)), {"field": "model.image.stages", "value": (1, 1, 1)}),
        (
            lambda: ImageTowerConfig(stages=(1, 1, 1, 1), depth=5, patch_size=32),
            {"field": "model.image.depth", "value": 5},
        ),
        (
            lambda: ImageTowerConfig(stages=(1, 1, 1, 1), depth=4, patch_size=16),
            {"field": "model.image.patch_size", "value": 16},
        ),
        (
            lambda: ImageTowerConfig(stages=(1, 1, 1, 1), depth=4, patch_size=32, pool="avg"),
            {"field": "model.image.pool", "value": "avg"},
        ),
        (lambda: ImageTowerConfig(class_token=False), {"field": "model.image.class_token", "value": False}),
        (lambda: ImageTowerConfig(pool_heads=2), {"field": "model.image.pool_heads", "value": 2}),
        (lambda: ImageTowerConfig(norm_after_pool=True), {"field": "model.image.norm_after_pool", "value": True}),
        (lambda: ImageTowerConfig(patch_dropout=1.0), {"field": "model.image.patch_dropout", "value": 1.0}),
        (lambda: TextTowerConfig(pool="cls", causal=False), {"field": "model.text.causal", "value": False}),
        (
            lambda: TextTowerConfig(projection=False, projection_bias=True),
            {"field": "model.text.projection_bias", "reason": "ignored"},
        ),
        (lambda: DecoderConfig(width=32), {"field": "model.decoder.width", "value": 32}),
        (
            lambda: ModelConfig(decoder=DecoderConfig(depth=1)),
            {"field": "model.decoder", "reason": "needs model.image.pool='attentional'"},
        ),
        (
            lambda: ModelConfig(embed_dim=32, image=ImageTowerConfig(projection=False)),
            {"field": "model.image.projection", "value": False},
        ),
    ],
)
def test_model_impossible_or_ignored_settings_are_refused(make, attributes):
    with raises_user_error(ConfigError, **attributes):
        make()


def test_text_states_of_earlier_layers_for_image_generators():
    model = CLIP(BASE, rngs=nnx.Rngs(0))
    last = model.text.states(TOKENS)
    assert last.shape == (2, 24, 16)
    raw = model.text.states(TOKENS, -2, final_norm=False)
    assert not np.allclose(raw, model.text.states(TOKENS, -2))
    with pytest.raises(ValueError, match="layer=-3"):
        model.text.states(TOKENS, -3)

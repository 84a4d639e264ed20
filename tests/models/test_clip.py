"""The two-tower model, functionally and on a mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clip_jax.config import MeshConfig
from clip_jax.config.presets import ladder, preset
from clip_jax.distributed.mesh import make_mesh
from clip_jax.errors import ConfigError
from clip_jax.models.clip import CLIP, build, init_params, normalize_features

from ..user_errors import raises_user_error


def test_clip_embeddings_are_unit_float32_and_the_scale_is_clamped():
    config = dataclasses.replace(preset("debug"), compute_dtype="bfloat16", max_logit_scale=20.0)
    model = CLIP(config, rngs=nnx.Rngs(0))
    model.logit_scale[...] = jnp.asarray(9.0)
    image, text, scale, *_ = model(jnp.ones((2, 32, 32, 3)), jnp.full((2, 24), 3, jnp.int32))
    assert image.dtype == text.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(image, axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(text, axis=-1), 1, rtol=1e-5)
    assert float(scale) == 20.0


def test_clip_initial_temperature_is_the_papers():
    scale = CLIP(preset("debug"), rngs=nnx.Rngs(0))(jnp.ones((1, 32, 32, 3)), jnp.ones((1, 24), jnp.int32))[2]
    assert float(scale) == pytest.approx(1 / 0.07, rel=1e-5)


def test_normalize_features_of_a_zero_row_has_a_finite_gradient():
    grad = jax.grad(lambda x: normalize_features(x).sum())(jnp.zeros((1, 4)))
    assert np.isfinite(grad).all()


def test_build_shardings_follow_the_axis_names():
    mesh = make_mesh(MeshConfig(fsdp=2))
    built = build(preset("debug"), mesh)
    specs = jax.tree.map(lambda s: tuple(s.spec), built.shardings)
    block = specs["image"]["blocks"]["blocks"]
    assert block["qkv"]["kernel"] == (None, "fsdp", "tensor")  # layers, embed, heads
    assert block["out"]["kernel"] == (None, "tensor", "fsdp")
    assert block["proj"]["kernel"] == (None, "tensor", "fsdp")  # layers, mlp, embed
    assert block["fc"]["bias"] == (None, None)
    assert specs["text"]["token"] == (None, "fsdp")
    assert specs["logit_scale"] == ()
    shapes = jax.tree.map(lambda a, s: len(s.spec) <= a.ndim, built.abstract_params, built.shardings)
    assert all(jax.tree.leaves(shapes))


def test_init_params_are_equal_on_any_mesh():
    config = preset("debug")
    alone = jax.jit(lambda: init_params(config, 3))()
    built = build(config, make_mesh(MeshConfig(data=2, fsdp=4)))
    spread = jax.jit(lambda: init_params(config, 3), out_shardings=built.shardings)()
    jax.tree.map(np.testing.assert_array_equal, alone, spread)
    assert jax.tree.structure(alone) == jax.tree.structure(built.abstract_params)
    assert len(spread["text"]["token"].sharding.device_set) == 8
    other = jax.jit(lambda: init_params(config, 4))()
    assert not np.array_equal(other["text"]["token"], alone["text"]["token"])


def test_build_width_that_does_not_divide_is_refused():
    model = ladder(1)
    model = dataclasses.replace(model, image=dataclasses.replace(model.image, width=20))
    with raises_user_error(ConfigError, field="model.image.width", value=20):
        build(model, make_mesh(MeshConfig(fsdp=8)))
    with raises_user_error(ConfigError, field="model.image.heads", value=2):
        build(ladder(1), make_mesh(MeshConfig(tensor=8)))


def test_init_params_have_the_configured_dtype():
    params = jax.eval_shape(lambda: init_params(dataclasses.replace(preset("debug"), param_dtype="bfloat16"), 0))
    kinds = {str(x.dtype) for x in jax.tree.leaves(params)}
    assert kinds == {"bfloat16", "float32"}  # the temperature stays float32
    assert params["logit_scale"].dtype == jnp.float32

"""The modules in another's code: a tower held by a module of their own, on no mesh or on a mesh of theirs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from clip_jax import losses, models
from clip_jax.config import ImageTowerConfig
from clip_jax.config.presets import preset
from clip_jax.errors import ConfigError

from ..user_errors import raises_user_error

CONFIG = preset("debug")
IMAGES = jax.random.normal(jax.random.key(0), (8, 32, 32, 3))


class Classifier(nnx.Module):
    def __init__(self, rngs):
        self.tower = models.VisionTransformer(CONFIG, rngs=rngs)
        self.head = nnx.Linear(CONFIG.image.width, 3, rngs=rngs)

    def __call__(self, images):
        return self.head(self.tower.penultimate(images))


def trained():
    """Train the head alone for a few steps; return (losses, the tower before, the tower after)."""
    model = Classifier(nnx.Rngs(0))
    head = nnx.PathContains("head")
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=head)
    before = jax.tree.map(np.asarray, nnx.as_pure(nnx.state(model.tower)))

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean(m(IMAGES) ** 2), argnums=nnx.DiffState(0, head))(model)
        optimizer.update(model, grads)
        return loss

    values = [float(step(model, optimizer)) for _ in range(3)]
    return values, before, nnx.as_pure(nnx.state(model.tower))


def test_tower_in_a_foreign_module_trains_only_the_chosen_part():
    values, before, after = trained()
    assert values[2] < values[1] < values[0]
    jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_tower_under_a_foreign_mesh_is_unchanged(kind):
    alone, _, _ = trained()
    with jax.set_mesh(jax.make_mesh((4, 2), ("replica", "model"), axis_types=(kind, kind))):
        assert trained()[0] == pytest.approx(alone, rel=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["ring", "gathered"])
def test_pair_losses_accept_foreign_mesh_axes(name):
    mesh = jax.make_mesh((4, 2), ("replica", "model"), axis_types=(AxisType.Auto,) * 2)
    image, text = (models.normalize_features(jax.random.normal(jax.random.key(k), (16, 8))) for k in (1, 2))
    split = [jax.device_put(x, NamedSharding(mesh, PartitionSpec(mesh.axis_names))) for x in (image, text)]
    scale, bias = jnp.asarray(5.0), jnp.asarray(-2.0)
    softmax, sigmoid = (getattr(losses, f"{name}_{kind}_loss") for kind in ("contrastive", "sigmoid"))
    whole = losses.dense_contrastive_loss(image, text, scale), losses.dense_sigmoid_loss(image, text, scale, bias)
    assert softmax(*split, scale, mesh=mesh) == pytest.approx(float(whole[0]), rel=1e-5)
    assert sigmoid(*split, scale, bias, mesh=mesh) == pytest.approx(float(whole[1]), rel=1e-5)


@pytest.mark.parametrize("tower", ["debug", "resnet"])
def test_image_tower_refuses_uint8_pixels(tower):
    image = {"debug": CONFIG.image, "resnet": ImageTowerConfig(
        width=8, depth=4, heads=2, image_size=32, patch_size=32, stages=(1, 1, 1, 1))}[tower]  # fmt: skip
    model = nnx.eval_shape(lambda: models.image_tower(dataclasses.replace(CONFIG, image=image), nnx.Rngs(0)))
    with pytest.raises(
        ValueError, match="images of dtype uint8: expected floats, as clip_jax.data.images.train_transforms.norm"
    ):
        jax.eval_shape(model, jnp.zeros((2, 32, 32, 3), jnp.uint8))
    with pytest.raises(ValueError, match=r"images of shape \(2, 28, 28, 3\): expected \[B, 32, 32, 3\]"):
        jax.eval_shape(model, jnp.zeros((2, 28, 28, 3)))


def test_text_tower_refuses_float_tokens_and_towers_a_foreign_config():
    tower = models.TextTransformer(CONFIG, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="tokens of dtype float32: expected int32"):
        tower(jnp.zeros((2, 24)))
    with raises_user_error(ConfigError, field="config", value="ViT-B/32"):
        models.CLIP("ViT-B/32", rngs=nnx.Rngs(0))

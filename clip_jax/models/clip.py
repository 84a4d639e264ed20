"""CLIP: two towers, one embedding space, one learned temperature (Radford et al., 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from clip_jax.config import ConfigError, ModelConfig
from clip_jax.models.text import TextTransformer
from clip_jax.models.vit import VisionTransformer
from clip_jax.parallel import RULES


def normalise_features(features: jax.Array) -> jax.Array:
    """Features [B, E] -> embeddings [B, E] of length 1, float32. A zero row stays zero, with a finite gradient."""
    x = features.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


class CLIP(nnx.Module):
    """Both towers. Built and used without a mesh; `build` says how it lies on one.

    Raises ConfigError (from the config) when a size is impossible.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        with nnx.use_eager_sharding(False):
            self.image = VisionTransformer(config, rngs=rngs)
            self.text = TextTransformer(config, rngs=rngs)
            # log-parametrised, so that it stays positive whatever the step
            self.logit_scale = nnx.Param(jnp.asarray(-math.log(config.init_temperature), jnp.float32))
        self.max_logit_scale = config.max_logit_scale

    def encode_image(self, images: jax.Array) -> jax.Array:
        """Normalised images float [B, H, W, 3] -> image features [B, E] (not of unit length)."""
        return self.image(images)

    def encode_text(self, tokens: jax.Array) -> jax.Array:
        """Tokens int32 [B, T] -> text features [B, E] (not of unit length)."""
        return self.text(tokens)

    def __call__(self, images: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """-> image embeddings [B, E], text embeddings [B, E], logit scale [] = min(exp(parameter), maximum)."""
        scale = jnp.minimum(jnp.exp(self.logit_scale[...]), self.max_logit_scale)
        image = normalise_features(self.encode_image(images))
        return image, normalise_features(self.encode_text(tokens)), scale


@dataclass(frozen=True)
class Built:
    """A model without arrays: its structure, its parameters' shapes, and where they lie on a mesh."""

    graphdef: Any
    abstract_params: Any
    shardings: Any


def build(config: ModelConfig, mesh: Mesh) -> Built:
    """Shapes and shardings of a model's parameters; nothing is allocated.

    Raises ConfigError when the ``fsdp`` axis does not divide a width.
    """
    fsdp = mesh.shape["fsdp"]
    for name, width in (("image", config.image.width), ("text", config.text.width)):
        if width % fsdp:
            raise ConfigError(f"model.{name}.width={width}: must be a multiple of mesh.fsdp={fsdp}")
    with nnx.logical_axis_rules(RULES):
        graphdef, state = nnx.split(nnx.eval_shape(lambda: CLIP(config, rngs=nnx.Rngs(0))))
        specs = nnx.as_pure(nnx.get_partition_spec(state))
    shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        specs,
        is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec),
    )
    return Built(graphdef, nnx.as_pure(state), shardings)


def init_params(config: ModelConfig, seed: int) -> Any:
    """Fresh parameters, a nested dictionary of arrays. Call it under `jax.jit` with ``out_shardings``."""
    return nnx.as_pure(nnx.state(CLIP(config, rngs=nnx.Rngs(seed))))

"""CLIP: two towers, one embedding space, one learned temperature (Radford et al., 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from clip_jax.config import ModelConfig
from clip_jax.config.mup import multipliers
from clip_jax.distributed.mesh import RULES
from clip_jax.errors import ConfigError
from clip_jax.models.coca import MultimodalDecoder
from clip_jax.models.execution import resolve
from clip_jax.models.predictive import Predictive
from clip_jax.models.towers import image_tower, text_tower


def normalise_features(features: jax.Array) -> jax.Array:
    """Features [B, E] -> embeddings [B, E] of length 1, float32 or more.

    A zero row stays zero, with a finite gradient.
    """
    x = features.astype(jnp.promote_types(jnp.float32, features.dtype))
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


class Outputs(NamedTuple):
    """Image and text embeddings [B, E], logit scale [], logit bias [] (zero without one), CoCa's caption logits
    [B, T, V] (None without a decoder; row t predicts token t + 1)."""

    image: jax.Array
    text: jax.Array
    scale: jax.Array
    bias: jax.Array
    captions: jax.Array | None


class CLIP(nnx.Module):
    """Both towers. AbstractModel and used without a mesh; `build` says how it lies on one.

    Raises ConfigError when a size is impossible, or for a predictive objective.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        if not isinstance(config, ModelConfig):
            raise ConfigError(f"config={config!r}: must be a ModelConfig; preset(name) gives one of a published size")
        if config.objective != "contrastive":
            raise ConfigError(f"model.objective={config.objective!r}: is no CLIP; build it with make_model")
        dtype = jnp.promote_types(jnp.float32, jnp.dtype(config.param_dtype))
        self.image: Any = image_tower(config, rngs)
        self.text: Any = text_tower(config, rngs)
        # log-parametrised, so that it stays positive whatever the step
        self.logit_scale = nnx.Param(jnp.asarray(-math.log(config.init_temperature), dtype))
        if config.logit_bias:
            self.logit_bias = nnx.Param(jnp.asarray(-10.0, dtype))  # Zhai et al., 2023
        if config.decoder.depth:
            self.decoder = MultimodalDecoder(config, rngs=rngs)
        self.config = config
        if config.parametrisation.kind != "standard":
            self._scale_initial_values()

    def _scale_initial_values(self) -> None:
        def scaled(path: tuple[Any, ...], param: Any) -> Any:
            return param.replace(param[...] * multipliers(path, self.config).init)

        nnx.update(self, nnx.map_state(scaled, nnx.state(self, nnx.Param)))

    def encode_image(self, images: jax.Array, *, train: bool = False, rng: jax.Array | None = None) -> jax.Array:
        """Normalised images float [B, H, W, 3] -> image features [B, E] (not of unit length).

        ``train`` turns on patch dropout (which needs ``rng``, keys [B], one an image) and batch statistics; the
        module's running statistics are then new.
        """
        return self.image(images, train=train, rng=rng)

    def encode_text(self, tokens: jax.Array) -> jax.Array:
        """Tokens int32 [B, T] -> text features [B, E] (not of unit length)."""
        return self.text(tokens)

    def caption_logits(self, images: jax.Array, tokens: jax.Array) -> jax.Array:
        """CoCa: next-token logits [B, T, V]; row t predicts token t + 1."""
        if not self.config.decoder.depth:
            raise ValueError("this model has no decoder")
        return self.decoder(self.text.features_and_tokens(tokens)[1], self.image.features_and_tokens(images)[1])

    def scale_and_bias(self) -> tuple[jax.Array, jax.Array]:
        """The scale min(exp(parameter), maximum) [] and the bias [] of the logits, zero without one."""
        scale = jnp.minimum(jnp.exp(self.logit_scale[...]), self.config.max_logit_scale)
        return scale, self.logit_bias[...] if self.config.logit_bias else jnp.zeros_like(scale)

    def __call__(
        self, images: jax.Array, tokens: jax.Array, *, train: bool = False, rng: jax.Array | None = None
    ) -> Outputs:
        """Normalised images and tokens -> `Outputs`. ``train`` and ``rng`` as in `encode_image`."""
        captions = None
        if self.config.decoder.depth:
            image, seen = self.image.features_and_tokens(images, rng if train else None)
            text, said = self.text.features_and_tokens(tokens)
            captions = self.decoder(said, seen)
        else:
            image, text = self.encode_image(images, train=train, rng=rng), self.encode_text(tokens)
        return Outputs(normalise_features(image), normalise_features(text), *self.scale_and_bias(), captions)


def make_model(config: ModelConfig, *, rngs: nnx.Rngs) -> CLIP | Predictive:
    """The model of ``config.objective``. Raises ConfigError when a size is impossible."""
    return (CLIP if config.objective == "contrastive" else Predictive)(config, rngs=rngs)


@dataclass(frozen=True)
class AbstractModel:
    """A model without arrays: its structure, its parameters' shapes, and where they lie on a mesh."""

    graphdef: Any
    abstract_params: Any
    shardings: Any
    compute_dtype: str


def _check_divides(config: ModelConfig, mesh: Mesh) -> None:
    fsdp, tensor = mesh.shape["fsdp"], mesh.shape["tensor"]
    stem = 2 if config.image.stages else 1  # a ResNet's stem has half the width
    bag = config.objective == "bag_of_words"  # has no text tower, but a kernel [embed_dim, V]
    head = ("embed_dim", config.embed_dim) if bag else ("text.width", config.text.width)
    wanted = [("image.width", config.image.width, "fsdp", stem * fsdp), (*head, "fsdp", fsdp)]
    towers: list[tuple[str, Any]] = [("image", config.image)]
    if not bag and config.text.encoder == "transformer":
        towers.append(("text", config.text))
    for name, tower in towers + ([("decoder", config.decoder)] if config.decoder.depth else []):
        wanted.append((f"{name}.heads", tower.heads, "tensor", tensor))
        if name != "image" or not config.image.stages:
            wanted.append((f"{name}.mlp_ratio × width", tower.mlp_width, "tensor", tensor))
    for name, size, axis, multiple in wanted:
        if size % multiple:
            raise ConfigError(f"model.{name}={size}: must be a multiple of mesh.{axis}={mesh.shape[axis]}")


def build(config: ModelConfig, mesh: Mesh) -> AbstractModel:
    """Shapes and shardings of a model's parameters, and its form on the mesh's devices; nothing is allocated.

    Raises ConfigError when the ``fsdp`` axis does not divide a width, or ``tensor`` the heads or an MLP, and when the
    devices lack the attention asked for.
    """
    _check_divides(config, mesh)
    config = resolve(config, mesh.devices.flat[0])
    with nnx.logical_axis_rules(RULES):
        graphdef, state = nnx.split(nnx.eval_shape(lambda: make_model(config, rngs=nnx.Rngs(0))))
        specs = nnx.as_pure(nnx.get_partition_spec(state))
    shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        specs,
        is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec),
    )
    return AbstractModel(graphdef, nnx.as_pure(state), shardings, config.compute_dtype)


def batch_statistics(model: CLIP | Predictive) -> Any:
    """The running statistics as a nested dictionary with the parameters' names; empty without batch norm."""
    return nnx.as_pure(nnx.state(model, nnx.BatchStat))


def with_statistics(params: Any, statistics: Any) -> Any:
    """Parameters with the running statistics replaced. No array is copied."""

    def name(path: tuple[Any, ...]) -> tuple[str, ...]:
        return tuple(str(getattr(k, "key", getattr(k, "name", k))) for k in path)

    new = {name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(statistics)}
    return jax.tree_util.tree_map_with_path(lambda path, leaf: new.get(name(path), leaf), params) if new else params


def init_params(config: ModelConfig, seed: int) -> Any:
    """Fresh parameters, a nested dictionary of arrays. Call it under `jax.jit` with ``out_shardings``."""
    return nnx.as_pure(nnx.state(make_model(config, rngs=nnx.Rngs(seed))))

"""CLIP: two towers, one embedding space, one learned temperature (Radford et al., 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from clip_jax.config import ModelConfig
from clip_jax.config.mup import multipliers
from clip_jax.distributed.mesh import SHARDING_RULES
from clip_jax.errors import ConfigError
from clip_jax.models.coca import MultimodalDecoder
from clip_jax.models.execution import resolve
from clip_jax.models.predictive import Predictive
from clip_jax.models.text import TextTransformer
from clip_jax.models.towers import image_tower, text_tower
from clip_jax.models.vit import VisionTransformer
from clip_jax.types import Params

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key


def normalize_features(features: Float[Array, "*batch e"]) -> Float[Array, "*batch e"]:
    """Normalize features to unit length.

    Args:
      features: [B, E], any float dtype.

    Returns:
      Embeddings [B, E] of length 1, float32 or wider. A zero row stays zero, with a finite gradient.
    """
    x = features.astype(jnp.promote_types(jnp.float32, features.dtype))
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


class Outputs(NamedTuple):
    """Outputs of `CLIP`.

    ``image`` and ``text`` are embeddings [B, E]; ``scale`` and ``bias`` of the logits are scalars (bias 0 for a model
    without one); ``captions`` are CoCa's logits [B, T, V], whose row t predicts token t + 1 (None without a decoder).
    """

    image: Float[Array, "b e"]
    text: Float[Array, "b e"]
    scale: Float[Array, ""]
    bias: Float[Array, ""]
    captions: Float[Array, "b t v"] | None


class CLIP(nnx.Module):
    """The CLIP model: both towers, temperature, optional logit bias and CoCa decoder.

    It can be built and used without a mesh; `build` gives its shardings on one.

    Args:
      config: shape and dtypes; its objective must be contrastive.
      rngs: random streams for the initial values.

    Raises:
      ConfigError: a size is impossible, or the objective is predictive.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        if not isinstance(config, ModelConfig):
            hint = "preset(name) returns one of a published size"
            raise ConfigError(field="config", value=config, reason="must be a ModelConfig", hint=hint)
        if config.objective != "contrastive":
            hint = "use make_model for the other objectives"
            raise ConfigError(field="model.objective", value=config.objective, reason="must be contrastive", hint=hint)
        dtype = jnp.promote_types(jnp.float32, jnp.dtype(config.param_dtype))
        self.image = image_tower(config, rngs)
        self.text = text_tower(config, rngs)
        # parametrized by its logarithm, so that it stays positive after any update
        self.logit_scale = nnx.Param(jnp.asarray(-math.log(config.init_temperature), dtype))
        if config.logit_bias:
            self.logit_bias = nnx.Param(jnp.asarray(-10.0, dtype))  # Zhai et al., 2023
        if config.decoder.depth:
            self.decoder = MultimodalDecoder(config, rngs=rngs)
        self.config = config
        if config.parametrization.kind != "standard":
            self._scale_initial_values()

    def _scale_initial_values(self) -> None:
        def scaled(path: tuple[str, ...], param: nnx.Variable) -> nnx.Variable:
            return param.replace(param[...] * multipliers(path, self.config).init)

        nnx.update(self, nnx.map_state(scaled, nnx.state(self, nnx.Param)))

    def encode_image(
        self, images: Float[Array, "b h w 3"], *, train: bool = False, rng: Key[Array, " b"] | None = None
    ) -> Float[Array, "b e"]:
        """Encode images to features that are not of unit length.

        Args:
          images: normalized, float [B, H, W, 3].
          train: use patch dropout and batch statistics, and update the module's running statistics.
          rng: keys [B], one per image; patch dropout needs them.

        Returns:
          Features [B, E].
        """
        return self.image(images, train=train, rng=rng)

    def encode_text(self, tokens: Int[Array, "b t"]) -> Float[Array, "b e"]:
        """Encode texts to features [B, E] that are not of unit length.

        Args:
          tokens: int32 [B, T], as a tokenizer gives.
        """
        return self.text(tokens)

    def scale_and_bias(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Return the logit scale min(exp(parameter), max_logit_scale) [] and the logit bias [], zero without one."""
        scale = jnp.minimum(jnp.exp(self.logit_scale[...]), self.config.max_logit_scale)
        return scale, self.logit_bias[...] if self.config.logit_bias else jnp.zeros_like(scale)

    def __call__(
        self,
        images: Float[Array, "b h w 3"],
        tokens: Int[Array, "b t"],
        *,
        train: bool = False,
        rng: Key[Array, " b"] | None = None,
    ) -> Outputs:
        """Encode images and tokens into `Outputs`; ``train`` and ``rng`` as in `encode_image`."""
        captions = None
        if self.config.decoder.depth:
            assert isinstance(self.image, VisionTransformer)
            assert isinstance(self.text, TextTransformer)
            image, image_tokens = self.image.features_and_tokens(images, rng if train else None)
            text, text_states = self.text.features_and_tokens(tokens)
            captions = self.decoder(text_states, image_tokens)
        else:
            image, text = self.encode_image(images, train=train, rng=rng), self.encode_text(tokens)
        return Outputs(normalize_features(image), normalize_features(text), *self.scale_and_bias(), captions)


def make_model(config: ModelConfig, *, rngs: nnx.Rngs) -> CLIP | Predictive:
    """Build the model for ``config.objective``.

    Args:
      config: the model.
      rngs: the source of the initial parameters.

    Raises:
      ConfigError: a size is impossible.
    """
    return (CLIP if config.objective == "contrastive" else Predictive)(config, rngs=rngs)


@dataclass(frozen=True)
class AbstractModel:
    """A model without arrays: its graph definition, parameter shapes, shardings on a mesh, and logical axes."""

    graphdef: nnx.GraphDef
    abstract_params: Params  # of jax.ShapeDtypeStruct
    shardings: Params  # of NamedSharding
    compute_dtype: str
    axes: Params  # of PartitionSpec, which holds the names of a parameter's axes


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
            reason = f"must be a multiple of mesh.{axis}={mesh.shape[axis]}"
            raise ConfigError(field=f"model.{name}", value=size, reason=reason)


def build(config: ModelConfig, mesh: Mesh) -> AbstractModel:
    """Compute the shapes and shardings of a model's parameters on a mesh, allocating nothing.

    Args:
      config: the model; its ``auto`` settings are resolved for the mesh's devices.
      mesh: the mesh, from `distributed.mesh.make_mesh`.

    Raises:
      ConfigError: the ``fsdp`` axis does not divide a width, ``tensor`` does not divide the heads or an MLP, or the
        devices do not support the requested attention.
    """
    _check_divides(config, mesh)
    config = resolve(config, mesh.devices.flat[0])
    with nnx.logical_axis_rules(SHARDING_RULES):
        graphdef, state = nnx.split(nnx.eval_shape(lambda: make_model(config, rngs=nnx.Rngs(0))))
        specs = nnx.as_pure(nnx.get_partition_spec(state))
    shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec)
    )
    shapes: Any = nnx.as_pure(state)
    return AbstractModel(graphdef, shapes, shardings, config.compute_dtype, _axes(state))


def logical_axes(config: ModelConfig) -> Params:
    """Return the logical names of each parameter's axes, a PartitionSpec per parameter; no array is made.

    Args:
      config: the model.
    """
    return _axes(nnx.split(nnx.eval_shape(lambda: make_model(config, rngs=nnx.Rngs(0))))[1])


def _axes(state: nnx.State) -> Params:
    axes: Any = nnx.as_pure(nnx.get_partition_spec(state))  # outside of rules, names stay names
    return axes


def batch_statistics(model: CLIP | Predictive) -> Params:
    """Return the running statistics as a nested dictionary named like the parameters; empty without batch norm."""
    statistics: Any = nnx.as_pure(nnx.state(model, nnx.BatchStat))
    return statistics


def with_statistics(params: Params, statistics: Params) -> Params:
    """Return the parameters with the running statistics replaced; no array is copied."""
    new = dict(jax.tree_util.tree_leaves_with_path(statistics))
    return jax.tree_util.tree_map_with_path(lambda path, leaf: new.get(path, leaf), params) if new else params


def init_params(config: ModelConfig, seed: int) -> Params:
    """Initialize parameters, a nested dictionary of arrays. Call it under `jax.jit` with ``out_shardings``.

    Args:
      config: the model.
      seed: of the random numbers; the same seed gives the same values on any mesh.
    """
    params: Any = nnx.as_pure(nnx.state(make_model(config, rngs=nnx.Rngs(seed))))
    return params

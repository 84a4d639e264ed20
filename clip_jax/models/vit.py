"""The vision transformer (Dosovitskiy et al., 2021) with CLIP's layer norm before the blocks.

Options cover its relatives: average and attention pooling, layer scale, patch dropout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from clip_jax.config.model import ModelConfig
from clip_jax.models.attention import AttentionalPooler, MapHead
from clip_jax.models.layers import Block, BlockSpec, Stack, check_images, layer_norm, named_param, normal, on_rows

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key


class Patches(nnx.Module):
    """Patch embedding: images [B, H, W, 3] -> one vector per patch [B, P, D].

    It is a convolution whose stride equals its size, and its kernel is stored in that form, [p, p, 3, D]; it is
    computed as a single matrix product.
    """

    def __init__(
        self, size: int, width: int, bias: bool, *, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs
    ) -> None:
        init = normal((3 * size**2) ** -0.5)
        self.kernel = named_param(init, (size, size, 3, width), (None, None, "pixels", "embed"), param_dtype, rngs)
        self.bias = named_param(nnx.initializers.zeros, (width,), (None,), param_dtype, rngs) if bias else None
        self.size, self.dtype = size, dtype

    def __call__(self, images: jax.Array) -> jax.Array:
        (b, h, w, c), p = images.shape, self.size
        cells = images.reshape(b, h // p, p, w // p, p, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, p * p * c)
        kernel = self.kernel[...].astype(self.dtype).reshape(p * p * c, -1)
        x = on_rows(lambda rows: rows @ kernel, cells)
        return x if self.bias is None else x + self.bias[...].astype(self.dtype)[None, None]


class VisionTransformer(nnx.Module):
    """Vision transformer: normalized images [B, H, W, 3] -> image features [B, E].

    Args:
      config: of the model, whose image tower this is.
      rngs: random numbers of the initial parameters.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        c = config.image
        dtype, param_dtype = jnp.dtype(config.compute_dtype), jnp.dtype(config.param_dtype)
        std = c.width**-0.5
        self.patch = Patches(c.patch_size, c.width, c.patch_bias, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        if c.class_token:
            self.class_token = named_param(normal(std), (c.width,), (None,), param_dtype, rngs)
        self.position = named_param(normal(std), (c.tokens, c.width), ("position", "embed"), param_dtype, rngs)
        if c.norm_pre:
            self.ln_pre = layer_norm(c.width, param_dtype=param_dtype, rngs=rngs, eps=c.norm_eps)
        spec = BlockSpec(
            c.width, c.heads, c.mlp_width, c.depth, config.activation, dtype, param_dtype,
            eps=c.norm_eps, layer_scale=c.layer_scale, attention=config.attention,
        )  # fmt: skip
        self.blocks = Stack(lambda r: Block(spec, r), c.depth, config, rngs)
        pooled = config.embed_dim if c.pool == "attentional" else c.width
        self.head: MapHead | AttentionalPooler
        if c.pool == "map":
            self.head = MapHead(spec, rngs)
        elif c.pool == "attentional":
            pool = BlockSpec(
                pooled, c.pool_heads, 0, 1, config.activation, dtype, param_dtype,
                eps=c.norm_eps, attention=config.attention,
            )  # fmt: skip
            self.head = AttentionalPooler(pool, c.width, c.pool_queries, rngs)
        self.ln_post = layer_norm(pooled, param_dtype=param_dtype, rngs=rngs, eps=c.norm_eps)
        if c.projection:
            self.projection = named_param(
                normal(pooled**-0.5), (pooled, config.embed_dim), ("embed", "joint"), param_dtype, rngs
            )
        self.config, self.dtype = c, dtype

    def _embed(self, images: jax.Array, rng: jax.Array | None) -> jax.Array:
        c = self.config
        check_images(images, c.image_size)
        x = self.patch(images.astype(self.dtype))
        b, _, d = x.shape
        position = self.position[...].astype(self.dtype)[None]
        first = position[:, : int(c.class_token)]
        x = x + position[:, int(c.class_token) :]
        if rng is not None and c.patch_dropout:
            x = _drop(x, c.patch_dropout, rng)
        if c.class_token:
            token = self.class_token[...].astype(self.dtype)[None, None] + first
            x = jnp.concatenate([jnp.broadcast_to(token, (b, 1, d)), x], axis=1)
        return self.ln_pre(x).astype(self.dtype) if c.norm_pre else x

    def _norm(self, x: jax.Array) -> jax.Array:
        return self.ln_post(x).astype(self.dtype)

    def _pooled(self, images: jax.Array, rng: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        c = self.config
        x = self.blocks(self._embed(images, rng))
        if c.pool == "attentional":
            x = self._norm(self.head(x))
            pooled, x = x[:, 0], x[:, 1:]
        elif c.pool == "map":
            pooled = self.head(self._norm(x))
        elif c.pool == "avg":
            patches = x[:, int(c.class_token) :]
            after = c.norm_after_pool
            pooled = self._norm(patches.mean(axis=1)) if after else self._norm(patches).mean(axis=1)
        else:
            pooled = self._norm(x[:, 0])
        return pooled, x

    def project(self, pooled: jax.Array) -> jax.Array:
        """Project pooled states to features [B, E].

        Args:
          pooled: float [B, D], from `penultimate`.
        """
        return pooled @ self.projection[...].astype(self.dtype) if self.config.projection else pooled

    def features_and_tokens(
        self, images: Float[Array, "b h w 3"], rng: Key[Array, " b"] | None = None
    ) -> tuple[Float[Array, "b e"], Float[Array, "b n d"]]:
        """Return features [B, E] and the input of CoCa's decoder, the pooler's other outputs [B, Q - 1, E].

        With other pooling the second part is the last block's output.

        Args:
          images: normalized, float [B, H, W, 3].
          rng: keys [B], one per image; given, they turn on patch dropout.
        """
        pooled, x = self._pooled(images, rng)
        return self.project(pooled), x

    def penultimate(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Return the features for linear probes, [B, D] before the projection to the embedding space.

        Args:
          images: normalized, float [B, H, W, 3].
        """
        return self._pooled(images, None)[0]

    def __call__(
        self, images: Float[Array, "b h w 3"], *, train: bool = False, rng: Key[Array, " b"] | None = None
    ) -> Float[Array, "b e"]:
        """Encode images to features [B, E]; raise ValueError in training with patch dropout but no ``rng``."""
        if train and self.config.patch_dropout and rng is None:
            raise ValueError("patch dropout needs rng= in training")
        return self.features_and_tokens(images, rng if train else None)[0]

    def hidden_states(self, images: Float[Array, "b h w 3"]) -> Float[Array, "layers b n d"]:
        """Return all states before the last norm, [depth + 1, B, T, D]; index 0 is the input of the first block.

        Args:
          images: normalized, float [B, H, W, 3].
        """
        return self.blocks.hidden(self._embed(images, None))


def _drop(patches: jax.Array, share: float, keys: jax.Array) -> jax.Array:
    """Keep a random subset of each image's patches, the same number in every image (Li et al., 2023, FLIP).

    ``keys`` [B] holds one key per image, so an image's dropped patches do not depend on the rest of the batch.
    """
    n = patches.shape[1]
    keep = max(1, int(n * (1 - share)))
    scores = jax.vmap(lambda key: jax.random.uniform(key, (n,)))(keys)
    chosen = jax.lax.top_k(scores, keep)[1]
    return jnp.take_along_axis(patches, chosen[:, :, None], axis=1)

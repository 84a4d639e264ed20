"""The vision transformer (Dosovitskiy et al., 2021), as CLIP changed it: a norm before the blocks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from clip_jax.config import ModelConfig
from clip_jax.models.layers import Stack, layer_norm, named_param, normal


class VisionTransformer(nnx.Module):
    """Normalised images [B, H, W, 3] -> image features [B, E], read from the class token."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        c = config.image
        dtype, param_dtype = jnp.dtype(config.compute_dtype), jnp.dtype(config.param_dtype)
        std = c.width**-0.5
        pixels = 3 * c.patch_size**2
        self.patch = nnx.Conv(
            3,
            c.width,
            (c.patch_size, c.patch_size),
            strides=(c.patch_size, c.patch_size),
            padding="VALID",
            use_bias=False,
            kernel_init=nnx.with_partitioning(normal(pixels**-0.5), (None, None, "pixels", "embed")),
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.class_token = named_param(normal(std), (c.width,), (None,), param_dtype, rngs)
        self.position = named_param(normal(std), (c.tokens, c.width), ("position", "embed"), param_dtype, rngs)
        self.ln_pre = layer_norm(c.width, param_dtype=param_dtype, rngs=rngs)
        self.blocks = Stack(
            c.width, c.heads, c.mlp_width, c.depth, causal=False, act=config.activation, dtype=dtype,
            param_dtype=param_dtype, remat=config.remat, scan=config.scan_layers, rngs=rngs,
        )  # fmt: skip
        self.ln_post = layer_norm(c.width, param_dtype=param_dtype, rngs=rngs)
        self.projection = named_param(normal(std), (c.width, config.embed_dim), ("embed", "joint"), param_dtype, rngs)
        self.size, self.dtype = c.image_size, dtype

    def __call__(self, images: jax.Array) -> jax.Array:
        if images.shape[1:] != (self.size, self.size, 3):
            raise ValueError(f"images of shape {images.shape}: expected [B, {self.size}, {self.size}, 3]")
        x = self.patch(images.astype(self.dtype))
        b, _, _, d = x.shape
        first = jnp.broadcast_to(self.class_token[...].astype(self.dtype), (b, 1, d))
        x = jnp.concatenate([first, x.reshape(b, -1, d)], axis=1) + self.position[...].astype(self.dtype)[None]
        x = self.blocks(self.ln_pre(x).astype(self.dtype))
        return self.ln_post(x[:, 0]).astype(self.dtype) @ self.projection[...].astype(self.dtype)

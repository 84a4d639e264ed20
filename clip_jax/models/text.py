"""The causal text transformer (Radford et al., 2021), read out at the end-of-text token."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from clip_jax.config import ModelConfig
from clip_jax.models.layers import Stack, layer_norm, named_param, normal


class TextTransformer(nnx.Module):
    """Tokens int32 [B, T] -> text features [B, E].

    The end-of-text token has the largest id of its row, as in the published vocabulary; features are read at
    its first place, so what follows it (padding) cannot matter under the causal mask.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        c = config.text
        dtype, param_dtype = jnp.dtype(config.compute_dtype), jnp.dtype(config.param_dtype)
        self.token = named_param(normal(0.02), (c.vocab_size, c.width), ("vocab", "embed"), param_dtype, rngs)
        self.position = named_param(normal(0.01), (c.context_length, c.width), ("position", "embed"), param_dtype, rngs)
        self.blocks = Stack(
            c.width, c.heads, c.mlp_width, c.depth, causal=True, act=config.activation, dtype=dtype,
            param_dtype=param_dtype, remat=config.remat, scan=config.scan_layers, rngs=rngs,
        )  # fmt: skip
        self.ln_final = layer_norm(c.width, param_dtype=param_dtype, rngs=rngs)
        self.projection = named_param(
            normal(c.width**-0.5), (c.width, config.embed_dim), ("embed", "joint"), param_dtype, rngs
        )
        self.length, self.dtype = c.context_length, dtype

    def __call__(self, tokens: jax.Array) -> jax.Array:
        if tokens.ndim != 2 or tokens.shape[1] != self.length:
            raise ValueError(f"tokens of shape {tokens.shape}: expected [B, {self.length}]")
        x = self.token[...][tokens].astype(self.dtype) + self.position[...].astype(self.dtype)[None]
        x = self.blocks(x)
        end = jnp.argmax(tokens, axis=-1)
        x = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
        return self.ln_final(x).astype(self.dtype) @ self.projection[...].astype(self.dtype)

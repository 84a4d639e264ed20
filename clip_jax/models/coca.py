"""CoCa's multimodal decoder: next-token logits from text states and image tokens (Yu et al., 2022)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from clip_jax.config.model import ModelConfig
from clip_jax.models.attention import DecoderBlock
from clip_jax.models.layers import BlockSpec, Stack, layer_norm, named_param, normal


class MultimodalDecoder(nnx.Module):
    """Decoder from text states [B, T, D] and image tokens [B, Q, D] to logits over the vocabulary [B, T, V]."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        c = config.decoder
        dtype, param_dtype = jnp.dtype(config.compute_dtype), jnp.dtype(config.param_dtype)
        spec = BlockSpec(
            c.width, c.heads, c.mlp_width, c.depth, config.activation, dtype, param_dtype,
            causal=True, attention=config.attention,
        )  # fmt: skip
        self.blocks = Stack(lambda r: DecoderBlock(spec, r), c.depth, config, rngs)
        self.ln_final = layer_norm(c.width, param_dtype=param_dtype, rngs=rngs)
        self.projection = named_param(
            normal(c.width**-0.5), (c.width, config.text.vocab_size), ("embed", "vocab"), param_dtype, rngs
        )
        self.dtype = dtype

    def __call__(self, text: jax.Array, image: jax.Array) -> jax.Array:
        x = self.ln_final(self.blocks(text, image)).astype(self.dtype)
        return x @ self.projection[...].astype(self.dtype)

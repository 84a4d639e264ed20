"""The text transformer (Radford et al., 2021), with the read-outs of SigLIP and CoCa; and the bag of words."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from clip_jax.config.model import ModelConfig, TextTowerConfig
from clip_jax.models.layers import Block, BlockSpec, Stack, layer_norm, named_param, normal


def text_param_dtype(config: ModelConfig) -> jnp.dtype:
    """Of the parameters on the text's side."""
    return jnp.dtype(config.text_param_dtype or config.param_dtype)


def text_blocks(config: ModelConfig, rngs: nnx.Rngs) -> Stack:
    """The blocks of a text transformer, [B, T, D] -> [B, T, D]."""
    c = config.text
    if c.pool == "cls" and config.attention == "cudnn":
        config = dataclasses.replace(config, attention="xla")  # the fused kernel has no such mask
    spec = BlockSpec(
        c.width, c.heads, c.mlp_width, c.depth, config.activation_of_text, jnp.dtype(config.compute_dtype),
        text_param_dtype(config), causal=c.causal, eps=c.norm_eps, layer_scale=c.layer_scale,
        attention=config.attention,
    )  # fmt: skip
    return Stack(lambda r: Block(spec, r), c.depth, config, rngs)


class TextTransformer(nnx.Module):
    """Tokens int32 [B, T] -> text features [B, E].

    With ``pool="eot"`` features are read at the first place of the largest token id, which is the end of text in the
    published vocabulary; what follows it (padding) cannot matter under the causal mask. ``last`` reads the last place
    (SigLIP). ``cls`` reads a learned token appended to the text (CoCa).
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        c = config.text
        dtype, param_dtype = jnp.dtype(config.compute_dtype), text_param_dtype(config)
        self.token = named_param(normal(0.02), (c.vocab_size, c.width), ("vocab", "embed"), param_dtype, rngs)
        self.position = named_param(normal(0.01), (c.tokens, c.width), ("position", "embed"), param_dtype, rngs)
        if c.pool == "cls":
            self.class_token = named_param(normal(0.01), (c.width,), (None,), param_dtype, rngs)
        self.blocks = text_blocks(config, rngs)
        self.ln_final = layer_norm(c.width, param_dtype=param_dtype, rngs=rngs, eps=c.norm_eps)
        if c.projection:
            self.projection = named_param(
                normal(c.width**-0.5), (c.width, config.embed_dim), ("embed", "joint"), param_dtype, rngs
            )
        if c.projection_bias:
            self.projection_bias = named_param(nnx.initializers.zeros, (config.embed_dim,), (None,), param_dtype, rngs)
        self.config, self.dtype = c, dtype

    def _embed(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        c = self.config
        if tokens.ndim != 2 or tokens.shape[1] != c.context_length:
            raise ValueError(f"tokens of shape {tokens.shape}: expected [B, {c.context_length}]")
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(f"tokens of dtype {tokens.dtype}: expected int32, as a tokenizer gives")
        x = self.token[...][tokens].astype(self.dtype)
        mask = None
        if c.pool == "cls":
            b = tokens.shape[0]
            last = jnp.broadcast_to(self.class_token[...].astype(self.dtype)[None, None], (b, 1, c.width))
            x = jnp.concatenate([x, last], axis=1)
            # As released: the row of places with text is shifted by one, so that the first padding place is looked at
            # and the appended token sees itself only when the text fills the context.
            seen = jnp.concatenate([jnp.ones((b, 1), bool), tokens != c.pad_id], axis=1)
            mask = jnp.broadcast_to(seen[:, None, None, :], (b, 1, c.tokens, c.tokens))
        return x + self.position[...].astype(self.dtype)[None], mask

    def _project(self, x: jax.Array) -> jax.Array:
        if self.config.projection:
            x = x @ self.projection[...].astype(self.dtype)
        if self.config.projection_bias:
            x = x + self.projection_bias[...].astype(self.dtype)[None]
        return x

    def features_and_tokens(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """-> features [B, E] and the raw states of the text's own places [B, T, D], which CoCa's decoder reads."""
        x, mask = self._embed(tokens)
        x = self.blocks(x, mask)
        if self.config.pool == "eot":
            end = jnp.argmax(tokens, axis=-1)
            pooled = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
        else:
            pooled = x[:, -1]
        features = self._project(self.ln_final(pooled).astype(self.dtype))
        return features, x[:, : self.config.context_length]

    def __call__(self, tokens: jax.Array) -> jax.Array:
        return self.features_and_tokens(tokens)[0]

    def hidden_states(self, tokens: jax.Array) -> jax.Array:
        """Every state before the last norm, [depth + 1, B, T, D]; 0 is the input of the first block."""
        return self.blocks.hidden(*self._embed(tokens))

    def states(self, tokens: jax.Array, layer: int = -1, final_norm: bool = True) -> jax.Array:
        """What image generators condition on: [B, T, D] after a block (-1 the last, -2 the last but one).

        Raises ValueError for a layer that is not there.
        """
        depth = self.config.depth
        if not -depth <= layer <= -1:
            raise ValueError(f"layer={layer}: must lie between {-depth} and -1")
        x = self.hidden_states(tokens)[layer]
        return self.ln_final(x).astype(self.dtype) if final_norm else x


def distinct_words(tokens: jax.Array, config: TextTowerConfig) -> jax.Array:
    """Tokens int32 [B, T] -> bool [B, T], true at the first place of every token that is a word (or a piece of one).

    Padding and the two largest ids, start and end of text in every vocabulary trained on here, are no words.
    """
    word = (tokens != config.pad_id) & (tokens < config.vocab_size - 2)
    earlier = jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool), -1)
    repeated = jnp.any((tokens[:, :, None] == tokens[:, None, :]) & earlier[None], axis=2)
    return word & ~repeated


class BagOfWords(nnx.Module):
    """Tokens int32 [B, T] -> text features [B, E]: the sum of the distinct words' embeddings, projected.

    The text encoder of the contrastive arm of Radford et al., 2021, figure 2. Blind to order and repetition; a sum and
    a mean have one direction, so the embeddings are those of a mean. A text without words has zero features.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        c, param_dtype = config.text, text_param_dtype(config)
        self.token = named_param(normal(0.02), (c.vocab_size, c.width), ("vocab", "embed"), param_dtype, rngs)
        self.projection = named_param(
            normal(c.width**-0.5), (c.width, config.embed_dim), ("embed", "joint"), param_dtype, rngs
        )
        self.config, self.dtype = c, jnp.dtype(config.compute_dtype)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        words = distinct_words(tokens, self.config)[:, :, None]
        total = jnp.sum(jnp.where(words, self.token[...][tokens].astype(self.dtype), 0), axis=1)
        return total @ self.projection[...].astype(self.dtype)

"""The text transformer (Radford et al., 2021), with the pooling of SigLIP and CoCa, and the bag-of-words encoder."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from clip_jax.config.model import ModelConfig, TextTowerConfig
from clip_jax.models.layers import Block, BlockSpec, Stack, layer_norm, named_param, normal

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int


def text_param_dtype(config: ModelConfig) -> jnp.dtype:
    """Return the dtype of the text tower's parameters."""
    return jnp.dtype(config.text_param_dtype or config.param_dtype)


def text_blocks(config: ModelConfig, rngs: nnx.Rngs) -> Stack:
    """Build the blocks of a text transformer, [B, T, D] -> [B, T, D]."""
    c = config.text
    if c.pool == "cls" and config.attention == "cudnn":
        config = dataclasses.replace(config, attention="xla")  # the fused kernel does not support this mask
    spec = BlockSpec(
        c.width, c.heads, c.mlp_width, c.depth, config.activation_of_text, jnp.dtype(config.compute_dtype),
        text_param_dtype(config), causal=c.causal, eps=c.norm_eps, layer_scale=c.layer_scale,
        attention=config.attention,
    )  # fmt: skip
    return Stack(lambda r: Block(spec, r), c.depth, config, rngs)


class TextTransformer(nnx.Module):
    """Text transformer: tokens int32 [B, T] -> text features [B, E].

    With ``pool="eot"`` features are read at the first position of the largest token id, which is the end of text in the
    published vocabulary; the padding after it has no effect under the causal mask. ``last`` reads the last position
    (SigLIP). ``cls`` reads a learned token appended to the text (CoCa).

    Args:
      config: of the model, whose text tower this is.
      rngs: random numbers of the initial parameters.
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
            # As in the released code, the mask of text positions is shifted by one: the first padding position is
            # attended to, and the appended token sees itself only if the text fills the context.
            visible = jnp.concatenate([jnp.ones((b, 1), bool), tokens != c.pad_id], axis=1)
            mask = jnp.broadcast_to(visible[:, None, None, :], (b, 1, c.tokens, c.tokens))
        return x + self.position[...].astype(self.dtype)[None], mask

    def _project(self, x: jax.Array) -> jax.Array:
        if self.config.projection:
            x = x @ self.projection[...].astype(self.dtype)
        if self.config.projection_bias:
            x = x + self.projection_bias[...].astype(self.dtype)[None]
        return x

    def features_and_tokens(self, tokens: Int[Array, "b t"]) -> tuple[Float[Array, "b e"], Float[Array, "b t d"]]:
        """Return features [B, E] and the states of the text's positions [B, T, D], the input of CoCa's decoder.

        The states come before the last norm and do not include the appended token.

        Args:
          tokens: int32 [B, T].
        """
        x, mask = self._embed(tokens)
        x = self.blocks(x, mask)
        if self.config.pool == "eot":
            end = jnp.argmax(tokens, axis=-1)
            pooled = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
        else:
            pooled = x[:, -1]
        features = self._project(self.ln_final(pooled).astype(self.dtype))
        return features, x[:, : self.config.context_length]

    def __call__(self, tokens: Int[Array, "b t"]) -> Float[Array, "b e"]:
        return self.features_and_tokens(tokens)[0]

    def hidden_states(self, tokens: Int[Array, "b t"]) -> Float[Array, "layers b t d"]:
        """Return all states before the last norm, [depth + 1, B, T, D]; index 0 is the input of the first block.

        Args:
          tokens: int32 [B, T].
        """
        return self.blocks.hidden(*self._embed(tokens))

    def states(self, tokens: Int[Array, "b t"], layer: int = -1, final_norm: bool = True) -> Float[Array, "b t d"]:
        """Return the states that image generators condition on, [B, T, D] after a block.

        Args:
          tokens: int32 [B, T].
          layer: the block, counted from the end: -1 is the last one.
          final_norm: whether to apply the final layer norm.

        Raises:
          ValueError: there is no such layer.
        """
        depth = self.config.depth
        if not -depth <= layer <= -1:
            raise ValueError(f"layer={layer}: must lie between {-depth} and -1")
        x = self.hidden_states(tokens)[layer]
        return self.ln_final(x).astype(self.dtype) if final_norm else x


def distinct_words(tokens: Int[Array, "b t"], config: TextTowerConfig) -> Bool[Array, "b t"]:
    """Mark the first occurrence of every token that is a word or a piece of one, int32 [B, T] -> bool [B, T].

    Padding and the two largest ids, which are start and end of text in every vocabulary this project trains with, do
    not count as words.
    """
    word = (tokens != config.pad_id) & (tokens < config.vocab_size - 2)
    earlier = jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool), -1)
    repeated = jnp.any((tokens[:, :, None] == tokens[:, None, :]) & earlier[None], axis=2)
    return word & ~repeated


class BagOfWords(nnx.Module):
    """Bag-of-words encoder: tokens int32 [B, T] -> text features [B, E], a projected sum of the words' embeddings.

    It is the text encoder of the contrastive model in Radford et al., 2021, figure 2. Order and repetition do not
    count. A sum has the direction of the mean, so the normalized embeddings are those of a mean. A text without words
    has zero features.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        c, param_dtype = config.text, text_param_dtype(config)
        self.token = named_param(normal(0.02), (c.vocab_size, c.width), ("vocab", "embed"), param_dtype, rngs)
        self.projection = named_param(
            normal(c.width**-0.5), (c.width, config.embed_dim), ("embed", "joint"), param_dtype, rngs
        )
        self.config, self.dtype = c, jnp.dtype(config.compute_dtype)

    def __call__(self, tokens: Int[Array, "b t"]) -> Float[Array, "b e"]:
        words = distinct_words(tokens, self.config)[:, :, None]
        total = jnp.sum(jnp.where(words, self.token[...][tokens].astype(self.dtype), 0), axis=1)
        return total @ self.projection[...].astype(self.dtype)

"""Cross-attention: SigLIP's pooling head, CoCa's pooler and the blocks of CoCa's decoder."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from clip_jax.models.layers import (
    Block,
    BlockSpec,
    Mlp,
    attend,
    layer_norm,
    linear,
    named_param,
    normal,
    on_rows,
    split_heads,
)


class CrossAttention(nnx.Module):
    """Cross-attention from queries [B, Q, D] to a context [B, T, C] -> [B, Q, D]."""

    def __init__(self, spec: BlockSpec, context_width: int, rngs: nnx.Rngs) -> None:
        d, kw = spec.width, spec.dtypes
        self.q = linear(d, d, ("embed", "heads"), std=d**-0.5, rngs=rngs, **kw)
        self.k = linear(context_width, d, ("embed", "heads"), std=context_width**-0.5, rngs=rngs, **kw)
        self.v = linear(context_width, d, ("embed", "heads"), std=context_width**-0.5, rngs=rngs, **kw)
        self.out = linear(d, d, ("heads", "embed"), std=spec.out_std, rngs=rngs, **kw)
        self.heads, self.form = spec.heads, spec.attention

    def __call__(self, queries: jax.Array, context: jax.Array) -> jax.Array:
        q, k, v = (
            split_heads(a, self.heads)
            for a in (on_rows(self.q, queries), on_rows(self.k, context), on_rows(self.v, context))
        )
        return on_rows(self.out, attend(q, k, v, form=self.form).reshape(queries.shape))


class MapHead(nnx.Module):
    """Multi-head attention pooling with one learned query, then an MLP (Zhai et al., 2022): [B, T, D] -> [B, D]."""

    def __init__(self, spec: BlockSpec, rngs: nnx.Rngs) -> None:
        std = spec.width**-0.5
        self.query = named_param(normal(std), (1, spec.width), (None, "embed"), spec.param_dtype, rngs)
        self.attention = CrossAttention(spec, spec.width, rngs)
        self.norm = layer_norm(spec.width, param_dtype=spec.param_dtype, rngs=rngs, eps=spec.eps)
        self.mlp = Mlp(spec, rngs)
        self.dtype = spec.dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        query = jnp.broadcast_to(self.query[...].astype(self.dtype)[None], (x.shape[0], 1, x.shape[2]))
        y = self.attention(query, x)
        return (y + self.mlp(self.norm(y).astype(self.dtype)))[:, 0]


class AttentionalPooler(nnx.Module):
    """Attention pooling with learned queries (Yu et al., 2022, CoCa): [B, T, C] -> [B, Q, D]."""

    def __init__(self, spec: BlockSpec, context_width: int, queries: int, rngs: nnx.Rngs) -> None:
        norm: dict[str, Any] = {"param_dtype": spec.param_dtype, "rngs": rngs, "eps": spec.eps}
        self.query = named_param(normal(1.0), (queries, spec.width), (None, "embed"), spec.param_dtype, rngs)
        self.norm_query = layer_norm(spec.width, **norm)
        self.norm_context = layer_norm(context_width, **norm)
        self.attention = CrossAttention(spec, context_width, rngs)
        self.dtype = spec.dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        query = self.norm_query(self.query[...]).astype(self.dtype)
        query = jnp.broadcast_to(query[None], (x.shape[0], *query.shape))
        return self.attention(query, self.norm_context(x).astype(self.dtype))


class CrossBlock(nnx.Module):
    """Pre-norm residual block: cross-attention to the image tokens, then an MLP."""

    def __init__(self, spec: BlockSpec, rngs: nnx.Rngs) -> None:
        norm: dict[str, Any] = {"param_dtype": spec.param_dtype, "rngs": rngs, "eps": spec.eps}
        self.ln_1 = layer_norm(spec.width, **norm)
        self.ln_context = layer_norm(spec.width, **norm)
        self.attention = CrossAttention(spec, spec.width, rngs)
        self.ln_2 = layer_norm(spec.width, **norm)
        self.mlp = Mlp(spec, rngs)
        self.dtype = spec.dtype

    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        x = x + self.attention(self.ln_1(x).astype(self.dtype), self.ln_context(context).astype(self.dtype))
        return x + self.mlp(self.ln_2(x).astype(self.dtype))


class DecoderBlock(nnx.Module):
    """A causal self-attention block over the text, then a cross-attention block to the image tokens."""

    def __init__(self, spec: BlockSpec, rngs: nnx.Rngs) -> None:
        self.own = Block(spec, rngs)
        self.cross = CrossBlock(spec, rngs)

    def __call__(self, x: jax.Array, context: jax.Array, *, length: int | None = None) -> jax.Array:
        return self.cross(self.own(x, length=length), context)
